"""Looking at rewards before training on them: score a folder, compare with a person's choices; the adversarial reward."""
from __future__ import annotations

from ..rewards.base import score
from .progress import node_progress
from .prompts import located
from .reward_node import CATEGORY, RewardNode
from .sockets import PAIRS, REWARD, SCORES

COMPARED = 6


class PTScoreFolder:
    DESCRIPTION = "Scores every image of a folder; its prompt is the .txt file of the same name. Images may differ in size."
    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "run", True
    RETURN_TYPES, RETURN_NAMES = (SCORES, "FLOAT", "STRING"), ("scores", "mean", "table")
    OUTPUT_TOOLTIPS = ("One score per image.", "Mean over the images that could be scored.",
            "Tab-separated, a line per image.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "folder": ("STRING", {"default": "my_images", "tooltip":
                    "A folder in ComfyUI's input folder, or a full path."}),
            "reward": (REWARD, {"tooltip": "What judges the images. Ensembles compare images of the same prompt: "
                                           "use the raw or calibrated scale for single images."}),
            "prompt": ("STRING", {"default": "", "multiline": True, "tooltip": "For images without a .txt file."}),
            "limit": ("INT", {"default": 1000, "min": 1, "max": 1_000_000, "tooltip":
                    "Score at most this many images."})},
            "hidden": {"unique_id": "UNIQUE_ID"}}

    @classmethod
    def IS_CHANGED(cls, folder, **_):
        from ..trainers.data.folders import fingerprint
        return fingerprint(located(folder))

    def run(self, folder, reward, prompt, limit, unique_id=None):
        from itertools import islice

        from ..rewards.folders import captioned, read_image
        from ..rewards.report import headline, joined, table
        progress, parts, prompts = node_progress(unique_id), [], []
        files = list(islice(captioned(located(folder), prompt.strip()), limit))
        for i, (path, text) in enumerate(files):
            parts.append(score(reward, read_image(path), [text], [i]))
            prompts.append(text)
            progress(i + 1, len(files))
        scores = joined(parts)
        text = table(scores, prompts, [path.name for path, _ in files])
        return {"ui": {"text": [headline(scores), text]}, "result": (scores, scores.stats["mean"], text)}


class PTShowScores:
    DESCRIPTION = ("Writes the score under each image and, for an ensemble, what every member thought: its raw "
                   "score, and in brackets the normalised one. Connect it to Preview Image.")
    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = ("IMAGE",), ("images",), (
            "The images with their scores, for a preview.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "images": ("IMAGE", {"tooltip": "The images that were scored, in the same order."}),
            "scores": (SCORES, {"tooltip": "From Score Rollout or Score Images."}),
            "best_first": ("BOOLEAN", {"default": True, "tooltip":
                    "On: the best image first. Off: in the order of the batch."})}}

    def run(self, images, scores, best_first):
        from ..rewards.labels import labelled
        return (labelled(images, scores, best_first),)


class PTRewardAgreement:
    DESCRIPTION = ("Which reward agrees with you? Scores your labelled pairs with each reward and reports how often "
                   "it prefers the image that you prefer, with a 95% interval, and how rewards go together.")
    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "run", True
    RETURN_TYPES, RETURN_NAMES, OUTPUT_TOOLTIPS = ("STRING",), ("report",), (
            "Accuracies, best first, and correlations.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "pairs": (PAIRS, {"tooltip": "From Pairs from Folder or Pairs from File. 100 pairs tell 60% from "
                                         "chance."}),
            "limit": ("INT", {"default": 1000, "min": 1, "max": 1_000_000, "tooltip":
                    "Use at most this many pairs."})},
            "optional": {f"reward_{i}": (REWARD, {"tooltip": "A reward to compare."}) for i in range(1, COMPARED + 1)},
            "hidden": {"unique_id": "UNIQUE_ID"}}

    def run(self, pairs, limit, unique_id=None, **rewards):
        from ..rewards.agreement import report, score_pairs
        wired = [rewards[name] for name in sorted(rewards) if rewards[name] is not None]
        if not wired:
            raise ValueError("reward_1: connect at least one reward to compare with the labels.")
        if pairs.kind != "pairs":
            raise ValueError("pairs: these are thumbs; agreement needs pairs of images of the same prompt.")
        rows, progress = pairs.rows[:limit], node_progress(unique_id)
        scores = score_pairs(wired, map(opened, rows), lambda done: progress(done, len(rows)))
        text = report(wired, scores)
        return {"ui": {"text": [text]}, "result": (text,)}


def opened(pair):
    """A row of preference data as prompt and two images."""
    import io

    from ..rewards.base import Prompt
    from ..rewards.folders import read_image
    return Prompt(pair.prompt), *(read_image(io.BytesIO(p.read()), p.name) for p in pair.pictures)


class PTAdversarialReward(RewardNode):
    DESCRIPTION = ("Trains a small head to tell the base model's images from the policy's, and rewards images that "
                   "look like the base model's: a penalty on what the policy learns to fake. Train it between "
                   "training runs, or every iteration with few steps.")
    RETURN_TYPES, RETURN_NAMES = (REWARD, "FLOAT"), ("reward", "accuracy")
    OUTPUT_TOOLTIPS = ("Log-odds that an image is the base model's; give it a small weight.",
                       "Share of held-out images that the head tells apart: 0.5 = the policy still looks like the "
                       "base model.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "base_images": ("IMAGE", {"tooltip": "Images of the base model: 32 or more, the prompts of the policy's "
                                                 "images."}),
            "policy_images": ("IMAGE", {"tooltip": "Images of the policy."}),
            "steps": ("INT", {"default": 100, "min": 1, "max": 10_000, "tooltip":
                    "Training steps of the head, 16 images of each kind at a time."}),
            "learning_rate": ("FLOAT", {"default": 0.002, "min": 0.00001, "max": 0.1, "step": 0.0001, "tooltip":
                                        "Of the head."}),
            "seed": ("INT", {"default": 0, "min": 0, "max": 2**53 - 1, "tooltip":
                    "Decides the order of the images."})},
            "optional": {"reward": (REWARD, {"tooltip": "An adversarial reward to train on; else a new head."})}}

    def run(self, base_images, policy_images, steps, learning_rate, seed, reward=None):
        from ..rewards.adversarial import Adversary, train
        if reward is not None and not isinstance(reward, Adversary):
            raise ValueError("reward: only another Adversarial Reward can be trained on.")
        adversary = train(reward or Adversary(), base_images, policy_images, steps, learning_rate, seed)
        return adversary, adversary.accuracy


NODES = {"PTScoreFolder": PTScoreFolder, "PTShowScores": PTShowScores,
         "PTRewardAgreement": PTRewardAgreement, "PTAdversarialReward": PTAdversarialReward}
NAMES = {"PTScoreFolder": "Score Folder", "PTShowScores": "Show Scores", "PTRewardAgreement":
        "Which Reward Agrees with Me?",
         "PTAdversarialReward": "Adversarial Reward"}
