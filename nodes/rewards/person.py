"""Rate by Hand: the user's own eye as a reward."""
from __future__ import annotations

from functools import partial
from pathlib import Path

from ...rewards.person.by_hand import BEST_AND_WORST, MODES
from ..access import votes_root
from ..page.rating import RatingRequest, ask
from .node import RewardNode


class PTRewardHuman(RewardNode):
    DESCRIPTION = ("You are the reward: images are shown in the page and wait for your choice. Use it wherever a reward fits; "
                   "every vote is also saved, to train on it later.")
    RETURN_TYPES, RETURN_NAMES = (*RewardNode.RETURN_TYPES, "STRING"), (*RewardNode.RETURN_NAMES, "votes_file")
    OUTPUT_TOOLTIPS = (*RewardNode.OUTPUT_TOOLTIPS, "The file of all your votes, for Pairs from File.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "mode": (MODES, {"default": BEST_AND_WORST, "tooltip": "best and worst: choose the best and the worst image of "
                     "each prompt, two clicks for any number of images; needs 2 images per prompt or more. thumbs: each "
                     "image up or down."}),
            "votes_name": ("STRING", {"default": "my taste", "tooltip": "Votes and images are kept in "
                           "output/posttrain_votes/<name>; several trainings may share one name."}),
            "wait_minutes": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 100_000.0, "step": 1.0, "tooltip": "How long to "
                             "wait for you before the training is paused. 0: as long as it takes."})}}

    @classmethod
    def VALIDATE_INPUTS(cls, votes_name=None):
        from ..run_name import name_is_valid
        return name_is_valid(votes_name, "votes_name")

    def run(self, mode, votes_name, wait_minutes):
        from ...rewards.person.by_hand import HumanReward
        from ...trainers.data.vote_book import VOTES
        folder = votes_folder(votes_name)
        reward = HumanReward(partial(ask_for_votes, title=votes_name, mode=mode, folder=folder, seconds=wait_minutes * 60), mode)
        return reward, str(folder / VOTES)


def votes_folder(name: str) -> Path:
    from ...rewards.base.names import the_folder
    from ...trainers.run import check_name
    return the_folder(votes_root() / check_name(name, "votes_name"), "votes_name")


def ask_for_votes(images, sheets, *, title: str, mode: str, folder: Path, seconds: float) -> dict[int, int]:
    """images [B,H,W,3] of the sheets -> votes by row."""
    from comfy.model_management import throw_exception_if_processing_interrupted

    from ...rewards.base.pixels import png_bytes
    from ...trainers.data.vote_book import VoteBook
    shown = {row: png_bytes(images[row], compress_level=4) for sheet in sheets for row in sheet.rows}
    before = {sheet: len(images) + number for number, sheet in enumerate(sheets) if sheet.source is not None}
    shown |= {row: png_bytes(sheet.source.read(), compress_level=4) for sheet, row in before.items()}
    request = RatingRequest(title, mode, sheets, shown, VoteBook(folder), before)
    return ask(request, seconds, throw_exception_if_processing_interrupted)


NODES = {"PTRewardHuman": PTRewardHuman}
NAMES = {"PTRewardHuman": "Rate by Hand"}
