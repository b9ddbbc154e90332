"""Looking at rewards before training on them: score a folder, compare with a person's choices; the adversarial reward."""
from __future__ import annotations

from ...rewards.base import words
from ...rewards.base.reward import Prompt, as_reward, compares, score, with_rules
from ..access import located, state_of
from ..progress import node_progress
from ..sockets import PAIRS, PROMPTS, REWARD, SCORES
from .node import CATEGORY, RewardNode

COMPARED = 6
RULES = (PROMPTS, {"tooltip": "Only for rule verifiers: where a text is also in these prompts, its rule is used."})


class PTScoreFolder:
    DESCRIPTION = ("Scores every image of a folder and of the folders in it, and shows the best and the worst: what does a "
                   "reward like? An image's prompt is the .txt file of the same name. Sizes may differ.")
    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "run", True
    RETURN_TYPES = (SCORES, "FLOAT", "STRING", "IMAGE", "IMAGE")
    RETURN_NAMES = ("scores", "mean", "table", "best", "worst")
    OUTPUT_TOOLTIPS = ("One score per image.", "Mean over the images that could be scored.", "Tab-separated, a line per image.",
                       "The best images with their scores, the best first.", "The worst ones, the worst first.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "folder": ("STRING", {"default": "my_images", "tooltip":
                    "A folder in ComfyUI's input folder, or a full path to one that you have opened (docs/security.md)."}),
            "reward": (REWARD, {"tooltip": "What judges the images. Ensembles compare images of the same prompt: "
                                           "use the raw or calibrated scale for single images."}),
            "prompt": ("STRING", {"default": "", "multiline": True, "tooltip": "For images without a .txt file."}),
            "limit": ("INT", {"default": 1000, "min": 1, "max": 1_000_000, "tooltip":
                    "Score at most this many images."}),
            "shown": ("INT", {"default": 8, "min": 1, "max": 256, "tooltip":
                    "How many of the best and of the worst images are handed out for a preview."})},
            "optional": {"prompts": RULES},
            "hidden": {"unique_id": "UNIQUE_ID"}}

    @classmethod
    def IS_CHANGED(cls, folder, **_):
        from ...trainers.data.folders import fingerprint
        return state_of(folder, fingerprint)

    def run(self, folder, reward, prompt, limit, shown=8, prompts=None, unique_id=None):
        from ...rewards.base.report import describe, headline, joined, ranked, table
        from ...rewards.folders import images_in, other_images
        if compares(reward):
            raise ValueError("reward: it compares the images of a prompt with each other, but a folder's images are scored one "
                             "by one. Use a single reward; or in Reward Member choose the scale 'raw' or 'calibrated', and "
                             "switch normalise_again off in Reward Ensemble.")
        place = located(folder, "folder")
        rules = prompts.prompts if prompts is not None else ()
        paths, texts, found, bad = scored_files(images_in(place)[:limit], prompt.strip(), rules, reward, node_progress(unique_id))
        bad += other_images(place, deep=True)
        if not found:
            raise ValueError(f"folder: none of the {len(bad)} images in {words.shown(folder)} can be read{left_out(bad)}")
        scores = joined(found)
        names = [words.shown(path.relative_to(place).as_posix(), 300) for path in paths]
        order = ranked(scores)
        known = [i for i in order if not scores.values[i].isnan()] or order
        best, worst = (contact_sheet(paths, names, scores, rows[:shown]) for rows in (known, known[::-1]))
        text = table(scores, texts, names)
        return {"ui": {"text": [headline(scores) + left_out(bad), text, describe(as_reward(reward).info)]},
                "result": (scores, scores.stats["mean"], text, best, worst)}


def scored_files(paths, fallback, known, reward, progress):
    """(paths, prompts, their scores, why the others were left out): one file after the other, read when its turn comes.

    fallback: the prompt of images without a caption; known: prompts whose rules serve captions of the same text.
    """
    from ...rewards.folders import caption
    from ...rewards.images import read_image
    kept, bad = [], []
    for i, path in enumerate(paths):
        try:
            prompt, = with_rules([Prompt(caption(path, fallback))], known)
            image = read_image(path)
        except (OSError, ValueError) as error:
            named = str(error).startswith(words.shown(str(path), 300))
            bad.append(str(error) if named else f"{words.shown(path.name)}: {words.shown(str(error), 300)}")
        else:
            kept.append((path, prompt, score(reward, image, [prompt], [len(kept)])))
        progress(i + 1, len(paths))
    return *([row[k] for row in kept] for k in range(3)), bad


def left_out(bad):
    from ...trainers.data.rows import skipped_text
    return skipped_text(tuple(bad), "image")


def contact_sheet(paths, names, scores, rows):
    """[N,H,W,3]: the files of these numbers, in this order, each with its name and scores."""
    import torch

    from ...rewards.base.labels import contained, labelled
    from ...rewards.base.report import picked
    from ...rewards.images import read_image
    images = torch.cat([contained(read_image(paths[i])) for i in rows])
    return labelled(images, picked(scores, rows), best_first=False, names=[names[i] for i in rows])


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
        from ...rewards.base.labels import labelled
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
            "optional": {**{f"reward_{i}": (REWARD, {"tooltip": "A reward to compare."}) for i in range(1, COMPARED + 1)},
                         "prompts": RULES},
            "hidden": {"unique_id": "UNIQUE_ID"}}

    def run(self, pairs, limit, prompts=None, unique_id=None, **rewards):
        from ...rewards.person.agreement import report, score_pairs
        wired = [rewards[name] for name in sorted(rewards) if rewards[name] is not None]
        if not wired:
            raise ValueError("reward_1: connect at least one reward to compare with the labels.")
        if pairs.kind != "pairs":
            raise ValueError("pairs: these are thumbs; agreement needs pairs of images of the same prompt.")
        rows, progress = pairs.rows[:limit], node_progress(unique_id)
        known = prompts.prompts if prompts is not None else ()
        scores = score_pairs(wired, (opened(row, known) for row in rows), lambda done: progress(done, len(rows)))
        parts = report(wired, scores)
        return {"ui": {"text": parts}, "result": ("\n\n".join(parts),)}


def opened(pair, known):
    """A row of preference data as prompt, with its rule where one is known, and two images."""
    import io

    from ...rewards.images import read_image
    prompt, = with_rules([Prompt(pair.prompt)], known)
    return prompt, *(read_image(io.BytesIO(p.read()), p.name) for p in pair.pictures)


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
        from ...rewards.learned.adversarial import Adversary, train
        if reward is not None and not isinstance(reward, Adversary):
            raise ValueError("reward: only another Adversarial Reward can be trained on.")
        adversary = train(reward or Adversary(), base_images, policy_images, steps, learning_rate, seed)
        return adversary, adversary.accuracy


NODES = {"PTScoreFolder": PTScoreFolder, "PTShowScores": PTShowScores,
         "PTRewardAgreement": PTRewardAgreement, "PTAdversarialReward": PTAdversarialReward}
NAMES = {"PTScoreFolder": "Score Folder", "PTShowScores": "Show Scores", "PTRewardAgreement":
        "Which Reward Agrees with Me?",
         "PTAdversarialReward": "Adversarial Reward"}
