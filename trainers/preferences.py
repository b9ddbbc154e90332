"""Scores -> preferences: pairs (DPO, D3PO, MaPO) or single thumbs up and down (KTO), from a rollout's own images.

Ties are never labelled: the official online DPO takes images 0 and 1 of a group whose scores are all equal, a random
label; here such groups are skipped and counted.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .advantages import differ

if TYPE_CHECKING:
    from ..rewards.base import Scores

PAIR_RULES = ("best and worst", "all pairs", "above and below")
LABEL_RULES = ("group mean", "threshold")


@dataclass(frozen=True)
class Preferences:
    """N pairs: winner, loser int64 [N], numbers of the rollout's samples; margin float64 [N], winner's score minus
    loser's, above 0; groups int64 [N]. stats: pairs, groups, skipped_groups (no pair came of them), failed."""

    winner: Tensor
    loser: Tensor
    margin: Tensor
    groups: Tensor
    stats: dict[str, float]


@dataclass(frozen=True)
class Labels:
    """N thumbs: index int64 [N], numbers of the rollout's samples; desirable bool [N]; groups int64 [N].
    stats: desirable, undesirable (counts), skipped (scores that say nothing), failed."""

    index: Tensor
    desirable: Tensor
    groups: Tensor
    stats: dict[str, float]


def preferences(
    scores: Scores, rule: str = "best and worst", *, least_margin: float = 0.0, threshold: float = 0.5
) -> Preferences:
    """Pairs within each prompt's images, from scores.values [B] and scores.groups [B].

    "best and worst": one pair a group; "all pairs": every two images whose scores differ; "above and below": every
    image at or above `threshold` with every one below. Any pair must differ by more than least_margin (0 or above)
    and more than rounding. Failed (not finite) scores take no part. Raises ValueError for an unknown rule and when
    every prompt has only one image.
    """
    if rule not in PAIR_RULES:
        raise ValueError(f"pair rule: unknown {rule!r}; use one of {', '.join(PAIR_RULES)}")
    if not least_margin >= 0:
        raise ValueError(f"least_margin: {least_margin} must be 0 or above")
    _check_threshold(threshold)
    r, groups, valid = _checked(scores)
    if groups.unique(return_counts=True)[1].max() < 2:
        raise ValueError("scores: every prompt has one image, but a pair needs two of the same prompt; raise images "
                         "per prompt to 2 or more, or use thumbs (KTO) with a threshold")
    found = [_pairs(r, rows, rule, least_margin, threshold) for rows in _groups(groups, valid)]
    winner, loser = torch.cat([torch.zeros(2, 0, dtype=torch.int64), *found], 1)
    number = float(groups.unique().numel())
    stats = {
        "pairs": float(len(winner)), "groups": number,
        "skipped_groups": number - groups[winner].unique().numel(), "failed": float((~valid).sum()),
    }
    return Preferences(winner, loser, r[winner] - r[loser], groups[winner], stats)


def labels(scores: Scores, rule: str = "group mean", *, threshold: float = 0.5) -> Labels:
    """Thumbs from scores.values [B] and scores.groups [B].

    "group mean": up above the mean of the prompt's images, down below it; scores on the mean (a whole group, if all
    are equal) are skipped. "threshold": up at or above the threshold, down below; needs no groups.
    """
    if rule not in LABEL_RULES:
        raise ValueError(f"label rule: unknown {rule!r}; use one of {', '.join(LABEL_RULES)}")
    _check_threshold(threshold)
    r, groups, valid = _checked(scores)
    used, line = valid.clone(), torch.full_like(r, threshold)
    if rule == "group mean":
        if groups.unique(return_counts=True)[1].max() < 2:
            raise ValueError("scores: every prompt has one image, but the rule 'group mean' compares images of the "
                             "same prompt; raise images per prompt to 2 or more, or choose the rule 'threshold'")
        for rows in _groups(groups, valid):
            line[rows] = r[rows].mean()
        used &= differ(torch.maximum(r, line), torch.minimum(r, line))
    index = used.nonzero().flatten()
    desirable = r[index] >= line[index]
    up = float(desirable.sum())
    stats = {
        "desirable": up, "undesirable": len(index) - up,
        "skipped": float((valid & ~used).sum()), "failed": float((~valid).sum()),
    }
    return Labels(index, desirable, groups[index], stats)


def _check_threshold(threshold: float) -> None:
    # nothing is at or above it or below it, so that every image would be a bad one
    if math.isnan(threshold):
        raise ValueError("threshold: it is not a number; set it to the score from which on an image is good")


def _checked(scores: Scores) -> tuple[Tensor, Tensor, Tensor]:
    r, groups = scores.values.detach().to("cpu", torch.float64), scores.groups.to("cpu", torch.int64)
    if r.ndim != 1 or r.shape != groups.shape or not len(r):
        raise ValueError(f"scores: values {tuple(r.shape)} and groups {tuple(groups.shape)} must both be [B], B > 0")
    return r, groups, r.isfinite()


def _groups(groups: Tensor, valid: Tensor) -> list[Tensor]:
    """Sample numbers of each group, the usable ones."""
    rows = [(valid & (groups == group)).nonzero().flatten() for group in groups.unique()]
    return [row for row in rows if len(row)]


def _pairs(r: Tensor, rows: Tensor, rule: str, least_margin: float, threshold: float) -> Tensor:
    """[2, n] winners and losers among the samples `rows`."""
    if rule == "best and worst":
        rows = torch.stack([rows[r[rows].argmax()], rows[r[rows].argmin()]])
    high, low = r[rows][:, None], r[rows][None, :]
    better = differ(high, low) & (high - low > least_margin)
    if rule == "above and below":
        better &= (high >= threshold) & (low < threshold)
    i, j = better.nonzero(as_tuple=True)
    return torch.stack([rows[i], rows[j]])
