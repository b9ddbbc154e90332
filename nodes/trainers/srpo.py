"""The node of SRPO."""
from __future__ import annotations

from .backprop_node import BackpropNode, part_input


class PTSRPO(BackpropNode):
    DESCRIPTION = ("SRPO: makes pictures more like one wording of their prompt and less like another, at any noise level. "
                   "Very fast; needs a differentiable reward that reads the prompt (HPS, PickScore, CLIPScore). "
                   "arXiv:2509.06942")
    RATE, UPDATES = 1e-4, 1
    SETTINGS = {
        "wanted": ("STRING", {"tooltip": "Put before the prompt: what pictures shall be more "
                   "like."}),
        "unwanted": ("STRING", {"tooltip": "Put before the prompt: what pictures shall be less "
                     "like."}),
        "earliest": part_input("Where on the way a picture is looked at, at the earliest: 0 is pure noise. Very early "
                              "damages the structure."),
        "latest": part_input("Where on the way a picture is looked at, at the latest. Very late teaches colours only."),
        "length": part_input("How long the one step is, as a part of the way.", 0.01, 0.99),
        "threshold": ("FLOAT", {"min": -1e6, "max": 1e6, "step": 0.05, "tooltip": "Pictures whose wanted wording "
                      "is ahead by this much are left alone. 0.7 suits HPS and CLIPScore; PickScore has larger numbers."})}

    @classmethod
    def kind(cls):
        from ...trainers.srpo import SRPO
        return SRPO


NODES = {"PTSRPO": PTSRPO}
NAMES = {"PTSRPO": "SRPO"}
