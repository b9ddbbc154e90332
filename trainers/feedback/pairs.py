"""Scores -> pairs of a prompt's images, one better than the other (DPO, D3PO, MaPO).

Ties are never labelled: the official online DPO takes images 0 and 1 of a group whose scores are all equal, a random
label; here such groups are skipped and counted.
"""
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

PAIR_RULES = ("best and worst", "all pairs", "above and below")


@dataclass(frozen=True)
class Preferences:
    """N pairs: winner, loser int64 [N], numbers of the rollout's samples; margin float64 [N], winner's score minus
    loser's, above 0; groups int64 [N]. stats: pairs, groups, skipped_groups (no pair came of them), failed."""

    winner: Tensor
    loser: Tensor
    margin: Tensor
    groups: Tensor
    stats: dict[str, float]
    __repr__ = brief


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
    check_threshold(threshold)
    r, groups, valid = checked(scores)
    if groups.unique(return_counts=True)[1].max() < 2:
        raise ValueError("scores: every prompt has one image, but a pair needs two of the same prompt; raise images "
                         "per prompt to 2 or more, or use thumbs (KTO) with a threshold")
    found = [_pairs(r, rows, rule, least_margin, threshold) for rows in groups_of(groups, valid)]
    winner, loser = torch.cat([torch.zeros(2, 0, dtype=torch.int64), *found], 1)
    number = float(groups.unique().numel())
    stats = {
        "pairs": float(len(winner)), "groups": number,
        "skipped_groups": number - groups[winner].unique().numel(), "failed": float((~valid).sum()),
    }
    return Preferences(winner, loser, r[winner] - r[loser], groups[winner], stats)


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
