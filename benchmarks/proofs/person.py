"""A person who rates by hand, simulated: prefers what the demo world's verifier prefers, and sees nothing else."""
from __future__ import annotations

import random

import numpy as np

from tools import pack


class Person:
    """A judge for tools.rater: the best and the worst image of each sheet by the verifier's mixed score, ties at random.

    Where all images are equally good the sheet is skipped, as a person would.
    """

    def __init__(self, seed: int):
        import torch
        self._tensor, self._random = torch.from_numpy, random.Random(seed)
        self._verifier = pack.module("toy.verifier").ToyVerifier("mixed")
        self._prompts = {prompt.text: prompt for prompt in pack.module("toy.prompts").prompt_set(held_out=False).prompts}

    def __call__(self, images: dict[int, np.ndarray], sheet: dict) -> dict[int, int]:
        rows = list(images)
        self._random.shuffle(rows)
        pixels = self._tensor(np.stack([images[row] for row in rows])).float()
        scores = self._verifier(pixels, [self._prompts[sheet["prompt"]]] * len(rows)).tolist()
        if max(scores) == min(scores):
            return {}
        return {rows[int(np.argmax(scores))]: 1, rows[int(np.argmin(scores))]: -1}
