"""The node of reward-weighted regression."""
from __future__ import annotations

from ..widgets import CHOICE
from .node import LEVELS, TrainerNode


class PTRWR(TrainerNode):
    DESCRIPTION = ("Reward-weighted regression: fine-tunes on the policy's own images, the better ones weighted more. The "
                   "simplest trainer and a useful comparison. arXiv:2305.13301")
    RATE, UPDATES = 3e-4, 1
    SETTINGS = {
        "sharpness": ("FLOAT", {"max": 10000.0, "step": 0.1, "tooltip": "How much more a better "
                      "image weighs: it multiplies the raw score, so suit it to the reward's range. 0 treats all "
                      "alike."}),
        "among": (CHOICE, {"tooltip": "Which images are weighed against each "
                  "other."}),
        "levels": LEVELS}

    @classmethod
    def kind(cls):
        from ...trainers.rwr import RWR
        return RWR


NODES = {"PTRWR": PTRWR}
NAMES = {"PTRWR": "Reward-Weighted Regression"}
