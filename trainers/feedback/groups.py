"""Scores sorted into groups, the images of one prompt each, and checked before anything is made of them."""
from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ...rewards.base.reward import Scores


def check_threshold(threshold: float) -> None:
    # nothing is at or above it or below it, so that every image would be a bad one
    if math.isnan(threshold):
        raise ValueError("threshold: it is not a number; set it to the score from which on an image is good")


def checked(scores: Scores) -> tuple[Tensor, Tensor, Tensor]:
    r, groups = scores.values.detach().to("cpu", torch.float64), scores.groups.to("cpu", torch.int64)
    if r.ndim != 1 or r.shape != groups.shape or not len(r):
        raise ValueError(f"scores: values {tuple(r.shape)} and groups {tuple(groups.shape)} must both be [B], B > 0")
    return r, groups, r.isfinite()


def groups_of(groups: Tensor, valid: Tensor) -> list[Tensor]:
    """Sample numbers of each group, the usable ones."""
    rows = [(valid & (groups == group)).nonzero().flatten() for group in groups.unique()]
    return [row for row in rows if len(row)]
