"""A node that only `develop.py prove` uses: scores dealt out again at random, the control of every claim of learning."""
from __future__ import annotations

from dataclasses import replace


class ShuffleScores:
    DESCRIPTION = "Gives every image the score of a random one. What still rises then is not learned from the reward."
    CATEGORY, FUNCTION, RETURN_TYPES = "PostTrain control", "run", ("PT_SCORES",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"scores": ("PT_SCORES",), "iteration": ("INT", {"forceInput": True}),
                             "seed": ("INT", {"default": 0})}}

    def run(self, scores, iteration, seed):
        import torch

        generator = torch.Generator().manual_seed(1_000_003 * seed + iteration)
        order = torch.randperm(len(scores.values), generator=generator)
        return (replace(scores, values=scores.values[order]),)


NODE_CLASS_MAPPINGS = {"ControlShuffleScores": ShuffleScores}
