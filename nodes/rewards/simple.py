"""The rewards that need no model: file size, colours, a plain sum."""
from __future__ import annotations

from .node import RewardNode

SUM_INPUTS = 5


class PTRewardJPEG(RewardNode):
    DESCRIPTION = ("Rewards images whose JPEG file is small (smooth images) or large (busy images). Needs no model: "
                   "good for a first try. DDPO, arXiv:2305.13301.")
    SMALL, LARGE = "small files (compressibility)", "large files (incompressibility)"

    @classmethod
    def INPUT_TYPES(cls):
        from ...rewards.rules.jpeg import UNITS
        return {"required": {
            "aim": ([cls.SMALL, cls.LARGE], {"tooltip": "Which files are good."}),
            "unit": (list(UNITS), {"tooltip": "kB (1000 bytes) as in the paper, or bits per pixel at any image "
                                              "size."}),
            "quality": ("INT", {"default": 95, "min": 1, "max": 100, "tooltip": "JPEG quality; 95 as in the paper."}),
        }}

    def run(self, aim: str, unit: str, quality: int):
        from ...rewards.rules.jpeg import JPEGReward
        return (JPEGReward(aim == self.SMALL, unit, quality),)


class PTRewardColour(RewardNode):
    DESCRIPTION = ("Rewards more or less of a colour statistic, or keeps it inside bounds. Needs no model. Bounds "
                   "are a cheap guard against images that grow too bright or too colourful in training.")

    @classmethod
    def INPUT_TYPES(cls):
        from ...rewards.rules.colour import AIMS, STATISTICS
        number = {"default": 0.0, "min": 0.0, "max": 400.0, "step": 0.01}
        return {"required": {
            "statistic": (list(STATISTICS), {"tooltip": "Colourfulness is about 0..150, the others are 0..1."}),
            "aim": (list(AIMS), {"tooltip": "more, less, or no reward inside the bounds and a penalty outside."}),
            "low": ("FLOAT", {**number, "tooltip": "Lower bound; used by 'inside bounds' only."}),
            "high": ("FLOAT", {**number, "default": 1.0, "tooltip": "Upper bound; used by 'inside bounds' only."}),
        }}

    def run(self, statistic: str, aim: str, low: float, high: float):
        from ...rewards.rules.colour import ColourReward
        return (ColourReward(statistic, aim, low, high),)


class PTRewardSum(RewardNode):
    DESCRIPTION = ("Adds rewards as they are, each times its weight. The one with the widest range decides; "
                   "use the ensemble to put rewards on the same scale first.")

    @classmethod
    def INPUT_TYPES(cls):
        inputs = {}
        for i in range(1, SUM_INPUTS + 1):
            inputs[f"reward_{i}"] = ("PT_REWARD", {"tooltip": f"Reward {i}; may stay empty."})
            inputs[f"weight_{i}"] = ("FLOAT", {"default": 1.0, "min": -1000.0, "max": 1000.0, "step": 0.01,
                                               "tooltip": f"Weight of reward {i}; negative turns it into a penalty."})
        return {"required": {}, "optional": inputs}

    def run(self, **inputs):
        from ...rewards.composite.combine import WeightedSum
        wired = [(inputs[f"reward_{i}"], inputs.get(f"weight_{i}", 1.0)) for i in range(1, SUM_INPUTS + 1)
                 if inputs.get(f"reward_{i}") is not None]
        return (WeightedSum(tuple(wired)),)


NODES = {"PTRewardJPEG": PTRewardJPEG, "PTRewardColour": PTRewardColour, "PTRewardSum": PTRewardSum}
NAMES = {"PTRewardJPEG": "JPEG Size Reward", "PTRewardColour": "Colour Reward", "PTRewardSum": "Sum of Rewards"}
