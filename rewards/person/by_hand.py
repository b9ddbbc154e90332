"""A person as a reward: whoever sits at the page says which images are good.

Images of one prompt are shown together, in random order. "thumbs": each image up (1) or down (-1). "best and worst": the best
one of each prompt (1), the worst (-1) and the others in between (0), which is what pair trainers need and takes two clicks.
What nobody judged is NaN: an image that could not be scored, and never one that is bad.
"""
from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.prompt import Source
from ..base.reward import Judgement, Prompt, RewardInfo, groups_of
from ..base.weights import as_written
from ..base.words import brief

THUMBS, BEST_AND_WORST = "thumbs", "best and worst"
MODES = (THUMBS, BEST_AND_WORST)


@dataclass(frozen=True)
class Sheet:
    """Images that are seen together. rows: their numbers in the batch, in the order in which they are shown; source: the picture
    that they were made from, where there is one."""

    prompt: str
    rows: tuple[int, ...]
    source: Source | None = None
    __repr__ = brief


# images [B,H,W,3], sheets -> votes by row: 1 or -1; rows without one were left out
Ask = Callable[[Tensor, Sequence[Sheet]], dict[int, int]]


class HumanReward:
    """ask: shows the sheets and waits for the votes. It may raise RewardUnavailable where nobody answers."""

    asked_once = True  # by the first of several ranks

    def __init__(self, ask: Ask, mode: str = BEST_AND_WORST):
        if mode not in MODES:
            raise ValueError(f"mode: unknown {mode!r}; use one of {', '.join(MODES)}")
        self.mode, self._ask = mode, ask
        self.info = RewardInfo("rated by hand", -1.0, 1.0, False, False, "You judge the images in the page.")

    @property
    def compares(self) -> bool:
        return self.mode == BEST_AND_WORST

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return self.evaluate(images, prompts, groups_of(prompts)).values

    def evaluate(self, images: Tensor, prompts: Sequence[Prompt], groups: Tensor) -> Judgement:
        """Raises ValueError where there is nothing to compare an image with."""
        sheets = [sheet for sheet in sheets_of(prompts, groups) if len(sheet.rows) > 1 or not self.compares]
        if not sheets:
            raise ValueError("reward: 'best and worst' compares images of the same prompt, but here each prompt has one "
                             "image; raise images per prompt to 2 or more, or rate with thumbs")
        votes = self._ask(images, sheets)
        values = torch.full((len(images),), torch.nan, dtype=torch.float64)
        for sheet in sheets:
            given = {row: float(votes[row]) for row in sheet.rows if votes.get(row)}
            if self.compares and len(given) == 2:  # judged: the others lie in between
                given = dict.fromkeys(sheet.rows, 0.0) | given
            for row, vote in given.items():
                values[row] = vote
        return Judgement(values, {self.info.name: values})


def sheets_of(prompts: Sequence[Prompt], groups: Tensor) -> list[Sheet]:
    """One sheet for each group, its images shuffled: their place must not tell how they were made."""
    rows: dict[int, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        rows.setdefault(group, []).append(row)
    return [Sheet(as_written(prompts[found[0]]), tuple(random.sample(found, len(found))), prompts[found[0]].source)
            for found in rows.values()]
