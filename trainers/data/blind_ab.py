"""A policy's pictures and another's of the same prompts and noise, judged pair by pair by who cannot know which is which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ...rewards.base.prompt import Prompt
from ...rewards.base.reward import score
from ...rewards.base.words import brief
from .blind import Share, Strength, bradley_terry, counted, sides, win_share


class Compared(NamedTuple):
    """Of the policy over the other. wins, losses, ties: pairs; those that nobody judged are none of them."""

    wins: int
    losses: int
    ties: int

    @property
    def pairs(self) -> int:
        return self.wins + self.losses + self.ties

    @property
    def share(self) -> Share:
        return win_share(*self)

    @property
    def strength(self) -> Strength:
        return bradley_terry(*self)


@dataclass(frozen=True)
class BlindAB:
    """judge: a reward that is shown both pictures of a pair at once, a person among them. against: one of run.gate.AGAINST;
    most: pairs that are judged each time, spread over the prompts, 0 for all."""

    judge: Any
    against: str
    most: int = 0
    __repr__ = brief

    def compare(self, images: torch.Tensor, others: torch.Tensor, prompts: Sequence[Prompt], seed: int) -> Compared:
        """images, others: [N, H, W, 3], of the same prompts and noise in the same order. seed: decides the sides."""
        count = min(self.most or len(images), len(images))
        rows = [number * len(images) // count for number in range(count)]
        turned = sides(count, seed)
        shown = torch.stack([each for row, turn in zip(rows, turned, strict=True)
                             for each in ((others[row], images[row]) if turn else (images[row], others[row]))])  # fmt: skip
        groups = torch.arange(count).repeat_interleave(2)
        values = score(self.judge, shown, [prompts[row] for row in rows for _ in range(2)], groups).values.view(count, 2)
        pairs = [pair[::-1] if turn else pair for pair, turn in zip(values.tolist(), turned, strict=True)]
        return Compared(*counted((mine, other) for mine, other in pairs if not math.isnan(mine - other)))
