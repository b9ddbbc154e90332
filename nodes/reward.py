"""Scoring nodes, and the rewards that need no model."""
from __future__ import annotations

from ..rewards.base import Prompt, Reward, score, score_rollout, with_rules
from ..rewards.report import describe, headline, table
from .reward_node import CATEGORY, RewardNode

SUM_INPUTS = 5
ONE_PROMPT, LINE_EACH = "one prompt for all images", "one line per image"


class PTScore:
    DESCRIPTION = "Scores every image of a rollout with a reward."
    CATEGORY = CATEGORY
    FUNCTION = "run"
    RETURN_TYPES = ("PT_SCORES", "FLOAT")
    RETURN_NAMES = ("scores", "mean")
    OUTPUT_TOOLTIPS = ("One score per image, with its prompt group.", "Mean over the images that could be scored.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "rollout": ("PT_ROLLOUT", {"tooltip": "Images that the policy made from the prompts."}),
            "reward": ("PT_REWARD", {"tooltip": "What judges the images. Higher scores are better."}),
        }}

    def run(self, rollout, reward: Reward):
        scores = score_rollout(reward, rollout)
        return scores, scores.stats["mean"]


class PTScoreImages:
    DESCRIPTION = "Scores any images with a reward and shows the numbers: a look at a reward before training on it."
    CATEGORY = CATEGORY
    FUNCTION = "run"
    RETURN_TYPES = ("PT_SCORES", "FLOAT", "STRING")
    RETURN_NAMES = ("scores", "mean", "table")
    OUTPUT_TOOLTIPS = ("One score per image.", "Mean over the images that could be scored.",
                       "Tab-separated table: score, every member of an ensemble, prompt.")
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The images to score."}),
                "reward": ("PT_REWARD", {"tooltip": "What judges the images. Higher scores are better."}),
                "prompt": ("STRING", {"default": "", "multiline": True, "tooltip":
                                      "What the images should show. Rewards of the image alone ignore it."}),
                "prompt_mode": ([ONE_PROMPT, LINE_EACH], {"tooltip":
                                "One prompt for the whole batch, or line 1 for image 1 and so on."}),
            },
            "optional": {"prompts": ("PT_PROMPTS", {
                "tooltip": "Only for rule verifiers: where a text is also in these prompts, its rule is used."})},
        }

    def run(self, images, reward: Reward, prompt: str, prompt_mode: str, prompts=None):
        each = with_rules(prompts_for(prompt, prompt_mode, images.shape[0]), prompts.prompts if prompts is not None else ())
        order = {text: i for i, text in enumerate(dict.fromkeys(p.text for p in each))}
        scores = score(reward, images, each, [order[p.text] for p in each])
        text = table(scores, each)
        return {"ui": {"text": [headline(scores), text, describe(reward.info)]}, "result": (scores, scores.stats["mean"], text)}


def prompts_for(text: str, mode: str, count: int) -> list[Prompt]:
    """One Prompt per image from the text of the widget."""
    lines = [text.strip()] * count if mode == ONE_PROMPT else [line.strip() for line in text.strip().splitlines()]
    if len(lines) != count:
        raise ValueError(f"prompt: '{LINE_EACH}' needs {count} lines for {count} images, got {len(lines)}.")
    return [Prompt(line) for line in lines]


class PTRewardJPEG(RewardNode):
    DESCRIPTION = ("Rewards images whose JPEG file is small (smooth images) or large (busy images). Needs no model: "
                   "good for a first try. DDPO, arXiv:2305.13301.")
    SMALL, LARGE = "small files (compressibility)", "large files (incompressibility)"

    @classmethod
    def INPUT_TYPES(cls):
        from ..rewards.jpeg import UNITS
        return {"required": {
            "aim": ([cls.SMALL, cls.LARGE], {"tooltip": "Which files are good."}),
            "unit": (list(UNITS), {"tooltip": "kB (1000 bytes) as in the paper, or bits per pixel at any image "
                                              "size."}),
            "quality": ("INT", {"default": 95, "min": 1, "max": 100, "tooltip": "JPEG quality; 95 as in the paper."}),
        }}

    def run(self, aim: str, unit: str, quality: int):
        from ..rewards.jpeg import JPEGReward
        return (JPEGReward(aim == self.SMALL, unit, quality),)


class PTRewardColour(RewardNode):
    DESCRIPTION = ("Rewards more or less of a colour statistic, or keeps it inside bounds. Needs no model. Bounds "
                   "are a cheap guard against images that grow too bright or too colourful in training.")

    @classmethod
    def INPUT_TYPES(cls):
        from ..rewards.colour import AIMS, STATISTICS
        number = {"default": 0.0, "min": 0.0, "max": 400.0, "step": 0.01}
        return {"required": {
            "statistic": (list(STATISTICS), {"tooltip": "Colourfulness is about 0..150, the others are 0..1."}),
            "aim": (list(AIMS), {"tooltip": "more, less, or no reward inside the bounds and a penalty outside."}),
            "low": ("FLOAT", {**number, "tooltip": "Lower bound; used by 'inside bounds' only."}),
            "high": ("FLOAT", {**number, "default": 1.0, "tooltip": "Upper bound; used by 'inside bounds' only."}),
        }}

    def run(self, statistic: str, aim: str, low: float, high: float):
        from ..rewards.colour import ColourReward
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
        from ..rewards.combine import WeightedSum
        wired = [(inputs[f"reward_{i}"], inputs.get(f"weight_{i}", 1.0)) for i in range(1, SUM_INPUTS + 1)
                 if inputs.get(f"reward_{i}") is not None]
        return (WeightedSum(tuple(wired)),)


NODES = {"PTScore": PTScore, "PTScoreImages": PTScoreImages, "PTRewardJPEG": PTRewardJPEG,
         "PTRewardColour": PTRewardColour, "PTRewardSum": PTRewardSum}
NAMES = {"PTScore": "Score Rollout", "PTScoreImages": "Score Images", "PTRewardJPEG": "JPEG Size Reward",
         "PTRewardColour": "Colour Reward", "PTRewardSum": "Sum of Rewards"}
