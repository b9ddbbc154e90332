"""Pairs inside the denoising steps."""
from __future__ import annotations

from dataclasses import dataclass

import torch

from ...rewards.base.words import brief


@dataclass(frozen=True)
class StepPreferences:
    """N pairs of candidates for one and the same step.

    rows: [N] the rollout's sample, steps: [N] the trajectory's step, whose state both start from; winner, loser:
    [N, C, H, W] the states that they lead to; margin: [N] difference of their scores. stats: pairs, candidates, ...
    """

    rows: torch.Tensor
    steps: torch.Tensor
    winner: torch.Tensor
    loser: torch.Tensor
    margin: torch.Tensor
    stats: dict[str, float]
    __repr__ = brief
