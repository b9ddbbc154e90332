"""Rewards that no user has: one that reads a word of the prompt and has a gradient, and ones that fail."""
from __future__ import annotations

import types

import torch

KINDS = ("light or dark", "all equal", "not a number", "infinite", "half not a number")


class _Reward:
    """"light or dark": the image's brightness, or its darkness where the prompt has the word "dark"."""

    def __init__(self, kind: str):
        self.kind = kind
        self.info = types.SimpleNamespace(name=kind, low=None, high=None, needs_prompt=kind == KINDS[0],
                                          differentiable=kind == KINDS[0], description=kind)

    def __call__(self, images, prompts):
        sign = torch.tensor([-1.0 if "dark" in prompt.text else 1.0 for prompt in prompts], device=images.device)
        scores = images.mean((1, 2, 3)) * sign
        if self.kind == "half not a number":
            return scores.where(torch.arange(len(scores)) % 2 == 0, torch.nan)
        wrong = {"all equal": 0.5, "not a number": torch.nan, "infinite": torch.inf}
        return torch.full_like(scores, wrong[self.kind]) if self.kind in wrong else scores


class LabReward:
    FUNCTION, CATEGORY, RETURN_TYPES = "run", "lab", ("PT_REWARD",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"judges_by": (KINDS,)}}

    def run(self, judges_by):
        return (_Reward(judges_by),)


REWARDS = {"LabReward": LabReward}
