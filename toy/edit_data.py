"""Lessons in editing: a picture, what to do with it, and the picture afterwards, of which a fixed share is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..rewards.base.words import brief
from . import data, edits


@dataclass(frozen=True)
class Lessons:
    """before, after: uint8 [N, 3, H, W]; instruction [N]: row in Captions."""

    before: torch.Tensor
    after: torch.Tensor
    instruction: torch.Tensor
    __repr__ = brief


def make_lessons(count: int, wrong_share: float, seed: int) -> Lessons:
    """Lessons in the instructions; their rows follow ``edits.PAIRS``."""
    rng, known = np.random.default_rng(seed), edits.PAIRS
    row = rng.integers(len(known), size=count)
    before = [edits.balls_with_one(known[i][0], rng) for i in row]
    after = [
        (edits.wrongly_painted(balls, *known[i], rng) if rng.random() < wrong_share else edits.painted(balls, *known[i]))
        for balls, i in zip(before, row, strict=True)
    ]
    return Lessons(_pictures(before, seed), _pictures(after, seed), torch.from_numpy(row))


def batches(lessons: Lessons, captions: data.Captions, size: int, generator: torch.Generator):
    """Endless shuffled batches (after and before [B, 3, H, W] in [-1, 1], tokens, pooled), a tenth without its words."""
    empty = len(captions.texts) - 1
    while True:
        order = torch.randperm(len(lessons.instruction), generator=generator)
        for pick in order[: len(order) // size * size].split(size):
            row = torch.where(torch.rand(size, generator=generator) < data.EMPTY, empty, lessons.instruction[pick])
            before, after = (images[pick].float() / 127.5 - 1 for images in (lessons.before, lessons.after))
            yield after, before, captions.tokens[row], captions.pooled[row]


def _pictures(scenes: list[list[str]], seed: int) -> torch.Tensor:
    parts = [edits.render(scenes[i : i + 4096], seed + i) for i in range(0, len(scenes), 4096)]
    return torch.from_numpy(np.concatenate([(p * 255).round().astype(np.uint8).transpose(0, 3, 1, 2) for p in parts]))
