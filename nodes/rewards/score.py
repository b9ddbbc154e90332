"""Scoring nodes: a rollout, or any images."""
from __future__ import annotations

from ...rewards.base.report import describe, headline, table
from ...rewards.base.reward import Prompt, Reward, as_reward, score, score_rollout, with_rules
from ...rewards.base.words import lines_of
from .node import CATEGORY

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
        order = {key: i for i, key in enumerate(dict.fromkeys(p.key for p in each))}
        scores = score(reward, images, each, [order[p.key] for p in each])
        text = table(scores, each)
        return {"ui": {"text": [headline(scores), text, describe(as_reward(reward).info)]},
                "result": (scores, scores.stats["mean"], text)}


def prompts_for(text: str, mode: str, count: int) -> list[Prompt]:
    """One Prompt per image from the text of the widget."""
    lines = [text.strip()] * count if mode == ONE_PROMPT else [line.strip() for line in lines_of(text.strip())]
    if len(lines) != count:
        raise ValueError(f"prompt: '{LINE_EACH}' needs {count} lines for {count} images, got {len(lines)}.")
    return [Prompt(line) for line in lines]


NODES = {"PTScore": PTScore, "PTScoreImages": PTScoreImages}
NAMES = {"PTScore": "Score Rollout", "PTScoreImages": "Score Images"}
