"""From scores to preferences: pairs of images, or thumbs up and down."""
from __future__ import annotations

from ..sockets import MENU, PREFERENCES, SCORES

CATEGORY = f"{MENU}/5 Feedback"


def threshold(used_by: str) -> tuple:
    return ("FLOAT", {"default": 0.5, "min": -1e6, "max": 1e6, "step": 0.01, "round": 1e-6,
            "tooltip": f"Used by {used_by}: scores from here on are good."})


class PTPreferences:
    DESCRIPTION = ("Turns scores into pairs: which image of a prompt is better than which. For Diffusion-DPO, MaPO and "
                   "D3PO. Images that score the same make no pair.")
    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "run", True
    RETURN_TYPES, RETURN_NAMES = (PREFERENCES, "INT"), ("preferences", "pairs")
    OUTPUT_TOOLTIPS = ("For Train Step.", "How many pairs were found.")

    @classmethod
    def INPUT_TYPES(cls):
        from ...trainers.feedback.pairs import PAIR_RULES
        return {"required": {
            "scores": (SCORES, {"tooltip": "From Score Rollout."}),
            "pairs": (PAIR_RULES, {"tooltip": "best and worst: one pair of each prompt, the clearest. all pairs: every two "
                      "images that differ; more to learn, and more to compute. above and below: every image that "
                      "reaches the threshold with every one that does not."}),
            "least_margin": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1e6, "step": 0.01, "round": 1e-6,
                             "tooltip": "Pairs whose scores differ by this or less are left out. Raise it where the "
                                        "reward is noisy."}),
            "threshold": threshold("'above and below'")}}

    def run(self, scores, pairs, least_margin, threshold):
        from ...trainers.feedback.fits import with_reward
        from ...trainers.feedback.pairs import preferences
        found = preferences(scores, pairs, least_margin=least_margin, threshold=threshold)
        count, none = len(found.winner), int(found.stats["skipped_groups"])
        text = f"{count} pairs; {none} of {int(found.stats['groups'])} prompts gave none"
        return {"ui": {"text": [text, *failed(found)]}, "result": (with_reward(found, scores), count)}


class PTLabels:
    DESCRIPTION = ("Turns scores into thumbs up and down, one for each image. For Diffusion-KTO, which needs no pairs.")
    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "run", True
    RETURN_TYPES, RETURN_NAMES = (PREFERENCES, "INT", "INT"), ("preferences", "up", "down")
    OUTPUT_TOOLTIPS = ("For Train Step.", "How many thumbs up.", "How many thumbs down.")

    @classmethod
    def INPUT_TYPES(cls):
        from ...trainers.feedback.labels import LABEL_RULES
        return {"required": {
            "scores": (SCORES, {"tooltip": "From Score Rollout."}),
            "rule": (LABEL_RULES, {"tooltip": "group mean: up where an image is better than the mean of its prompt. "
                     "threshold: up where the score reaches the threshold; works with one image per prompt."}),
            "threshold": threshold("'threshold'")}}

    def run(self, scores, rule, threshold):
        from ...trainers.feedback.fits import with_reward
        from ...trainers.feedback.labels import labels
        found = labels(scores, rule, threshold=threshold)
        up, down, skipped = (int(found.stats[key]) for key in ("desirable", "undesirable", "skipped"))
        text = f"{up} up, {down} down; {skipped} say nothing"
        return {"ui": {"text": [text, *failed(found)]}, "result": (with_reward(found, scores), up, down)}


def failed(found) -> list[str]:
    count = int(found.stats["failed"])
    return [f"{count} images could not be scored"] if count else []


NODES = {"PTPreferences": PTPreferences, "PTLabels": PTLabels}
NAMES = {"PTPreferences": "Preferences", "PTLabels": "Thumbs"}
