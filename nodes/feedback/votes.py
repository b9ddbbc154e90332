"""Export Votes: what was rated by hand, for other tools."""

from __future__ import annotations

from ..access import state_of, votes_root
from ..run_name import name_is_valid
from .data import CATEGORY

FILE = "pickapic.parquet"


class PTExportVotes:
    DESCRIPTION = (
        "Writes the votes of Rate by Hand as a .parquet file in the form of Pick-a-Pic, for other tools that read that data set; "
        "Pairs from File reads it back. Needs the Python package pyarrow."
    )
    CATEGORY, FUNCTION, OUTPUT_NODE = CATEGORY, "run", True
    RETURN_TYPES, RETURN_NAMES = ("STRING", "STRING"), ("file", "summary")
    OUTPUT_TOOLTIPS = (
        "The file, for Pairs from File.",
        "How many pairs and ties it holds, what was left out and why, and how often you gave the same answer twice.",
    )

    @classmethod
    def INPUT_TYPES(cls):
        tip = "The votes_name of Rate by Hand whose votes are written."
        return {"required": {"votes_name": ("STRING", {"default": "my taste", "tooltip": tip})}}

    @classmethod
    def VALIDATE_INPUTS(cls, votes_name=None):
        return True if votes_name is None else name_is_valid(votes_name, "votes_name")

    @classmethod
    def IS_CHANGED(cls, votes_name, **_):
        from ...trainers.data.vote_book import VOTES

        return state_of(str(votes_root() / votes_name / VOTES) if isinstance(votes_name, str) else None)

    def run(self, votes_name):
        from ...trainers.data.again import Returns
        from ...trainers.data.pickapic import write_pickapic
        from ...trainers.data.rows import skipped_text
        from ...trainers.data.verdicts import read_verdicts, votes_file
        from ..rewards.person import votes_folder

        folder = votes_folder(votes_name)
        pictures, verdicts, skipped = read_verdicts(votes_file(folder))
        alone = sum(v.second is None for v in verdicts)
        if alone:
            skipped.append(f"{alone} votes on single images: the form has only pairs")
        count = write_pickapic(pictures, verdicts, folder / FILE)
        told = f"{count} pairs and ties in {FILE} of posttrain_votes/{votes_name}"
        said = "\n".join(filter(None, [told, Returns(folder).consistency().text()]))
        text = said + skipped_text(tuple(skipped), "entry")
        return {"ui": {"text": [text]}, "result": (str(folder / FILE), text)}


NODES = {"PTExportVotes": PTExportVotes}
NAMES = {"PTExportVotes": "Export Votes"}
