"""Scores -> single thumbs up and down (KTO). Ties are never labelled."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ...rewards.base.words import brief
from .advantages import differ
from .groups import check_threshold, checked, groups_of

if TYPE_CHECKING:
    from ...rewards.base.reward import Scores

LABEL_RULES = ("group mean", "threshold")


@dataclass(frozen=True)
class Labels:
    """N thumbs: index int64 [N], numbers of the rollout's samples; desirable bool [N]; groups int64 [N].
    stats: desirable, undesirable (counts), skipped (scores that say nothing), failed."""

    index: Tensor
    desirable: Tensor
    groups: Tensor
    stats: dict[str, float]
    __repr__ = brief


def labels(scores: Scores, rule: str = "group mean", *, threshold: float = 0.5) -> Labels:
    """Thumbs from scores.values [B] and scores.groups [B].

    "group mean": up above the mean of the prompt's images, down below it; scores on the mean (a whole group, if all
    are equal) are skipped. "threshold": up at or above the threshold, down below; needs no groups.
    """
    if rule not in LABEL_RULES:
        raise ValueError(f"label rule: unknown {rule!r}; use one of {', '.join(LABEL_RULES)}")
    check_threshold(threshold)
    r, groups, valid = checked(scores)
    used, line = valid.clone(), torch.full_like(r, threshold)
    if rule == "group mean":
        if groups.unique(return_counts=True)[1].max() < 2:
            raise ValueError("scores: every prompt has one image, but the rule 'group mean' compares images of the "
                             "same prompt; raise images per prompt to 2 or more, or choose the rule 'threshold'")
        for rows in groups_of(groups, valid):
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
