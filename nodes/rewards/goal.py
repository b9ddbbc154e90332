"""Goal: a reward chosen by what it is for, for somebody who does not know rewards by name."""

from __future__ import annotations

from ...rewards.base.words import shown
from .node import BATCH, RewardNode
from .person import PTRewardHuman

BETTER, PROMPTS, TASTE, LIKE, LESS = GOALS = (
    "look better", "follow prompts", "my taste", "like these pictures", "less of this")  # fmt: skip
ASKED = {
    LIKE: "type the name of a folder of pictures in ComfyUI's input folder",
    LESS: "type in words what it shall show less of",
}
VOTES = "my taste"


class PTGoal(RewardNode):
    DESCRIPTION = (
        "A reward by its goal: pictures that people prefer, pictures that show what the prompt says, your own choice, pictures "
        "like those of a folder, less of what you name. See the help page for the file that each needs."
    )

    @classmethod
    def INPUT_TYPES(cls):
        goal = (
            "look better: as people prefer it (PickScore). follow prompts: show what the prompt says (CLIPScore). my taste: you "
            "choose the best and the worst. like these pictures, less of this: CLIPScore, and likeness to a folder, or less of "
            "what you name."
        )
        about = (
            "like these pictures: the name of a folder in ComfyUI's input folder. less of this: what, in words, as in a prompt. "
            "Other goals do not read it."
        )
        return {
            "required": {
                "goal": (list(GOALS), {"default": BETTER, "tooltip": goal}),
                "folder_or_words": ("STRING", {"default": "", "tooltip": about}),
            },
            "optional": {"batch_size": ("INT", {**BATCH[1], "default": 4})},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, goal=None, folder_or_words=None):
        return what_is_missing(goal, folder_or_words) or True

    @classmethod
    def IS_CHANGED(cls, goal=None, folder_or_words=None, **_):
        from ...trainers.data.folders import fingerprint
        from ..access import state_of

        return state_of(folder_or_words, fingerprint) if goal in (LIKE, None) else ""

    def run(self, goal, folder_or_words, batch_size=4):
        if missing := what_is_missing(goal, folder_or_words):
            raise ValueError(missing)
        if goal == BETTER:
            return (clip("PickScore", batch_size),)
        if goal == TASTE:
            from ...rewards.person.by_hand import BEST_AND_WORST

            return PTRewardHuman().run(BEST_AND_WORST, VOTES, 0.0)[:1]
        follows = clip("CLIPScore", batch_size)
        if goal == PROMPTS:
            return (follows,)
        if goal == LESS:
            return less_of(follows, folder_or_words.strip())
        return like_pictures(follows, folder_or_words.strip(), batch_size)


def what_is_missing(goal: str | None, folder_or_words: str | None) -> str:
    """In words; "" where nothing is, or where it is wired and not known yet."""
    if goal is None:
        return ""
    if not isinstance(goal, str) or goal not in GOALS:
        return f"goal: unknown {shown(repr(goal), 80)}; use one of {', '.join(GOALS)}"
    if goal in ASKED and folder_or_words is not None and not str(folder_or_words).strip():
        return f"folder_or_words: it is empty, and the goal '{goal}' needs it; {ASKED[goal]}"
    return ""


def clip(kind: str, batch_size: int):
    from .learned import PTRewardCLIP

    return PTRewardCLIP().run(kind, "auto", batch_size=batch_size)[0]


def like_pictures(follows, folder: str, batch_size: int) -> tuple:
    """The prompt holds the subject: likeness alone would draw the folder's pictures whatever is asked for."""
    from ...rewards.composite.combine import WeightedSum
    from ...rewards.folders import images_in
    from ...rewards.learned.likeness import LikePictures
    from ..access import located

    (network,) = follows.networks()
    pictures = images_in(located(folder, "folder_or_words"))
    return (WeightedSum(((follows, 1.0), (LikePictures(network, pictures, batch_size), 1.0))),)


def less_of(follows, words: str) -> tuple:
    from ...rewards.composite.combine import WeightedSum
    from ...rewards.learned.likeness import ShowsWords

    return (WeightedSum(((follows, 1.0), (ShowsWords(follows, words), -1.0))),)


NODES = {"PTGoal": PTGoal}
NAMES = {"PTGoal": "Goal"}
