"""Training a reward model on choices between two images: Bradley-Terry, and Rao-Kupper where ties are labelled.

    d = reward_a - reward_b
    A chosen:  -log sigmoid(d - log k)          B chosen: -log sigmoid(-d - log k)
    tie:       -log sigmoid(d - log k) - log sigmoid(-d - log k) - log(k^2 - 1)

k = 1 is Bradley-Terry, which has no ties; k above 1 is how readily people call a tie (5 in VideoReward, arXiv
2501.13918, whose code, KwaiVGI/VideoAlign, also divides by the number of rows that it masks out: leave those rows out
here). The three probabilities add up to 1.
"""
from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class ChoiceLoss(NamedTuple):
    """loss: scalar with gradient; accuracy: share of the non-tied rows ordered as chosen, detached (0 if all tie)."""

    loss: Tensor
    accuracy: Tensor


def choice_loss(reward_a: Tensor, reward_b: Tensor, choice: Tensor, k: float = 1.0) -> ChoiceLoss:
    """reward_a, reward_b [N] with gradient; choice int64 [N]: 1 A, -1 B, 0 tie (needs k > 1). A plain batch mean."""
    tie = choice == 0
    if k < 1 or (k == 1 and bool(tie.any())):
        raise ValueError(f"k: {k} must be 1 or more, and above 1 where ties are labelled; 5 is usual")
    d = reward_a - reward_b
    chosen = F.logsigmoid(torch.where(choice < 0, -d, d) - math.log(k))
    tied = F.logsigmoid(-d - math.log(k)) + math.log(max(k * k - 1, 1e-300))
    right = (d.detach().sign() == choice) & ~tie
    return ChoiceLoss(-(chosen + tied.where(tie, 0.0)).mean(), right.sum() / (~tie).sum().clamp_min(1))
