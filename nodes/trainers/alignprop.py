"""The node of AlignProp."""
from __future__ import annotations

from ..widgets import CHOICE
from .backprop_node import BackpropNode


class PTAlignProp(BackpropNode):
    DESCRIPTION = ("AlignProp: like DRaFT, with a random number of steps that carry gradient, and an end: it rests when the "
                   "reward is high enough. arXiv:2310.03739")
    RATE, UPDATES = 1e-3, 1
    SETTINGS = {
        "truncation": (CHOICE, {"tooltip": "How many of the last steps carry gradient, drawn anew for every "
                       "update. gaussian: about a sixth of them, the official choice; uniform: any number from one to all."}),
        "target": ("FLOAT", {"default": 0.0, "min": -1e6, "max": 1e6, "step": 0.1, "tooltip": "The reward is pulled to this "
                   "value, and back from beyond it; 10 is official for aesthetics. 0: as high as it will go."}),
        "coefficient": ("FLOAT", {"min": 1e-6, "max": 1000.0, "step": 0.001, "round": 1e-6, "tooltip":
                        "Factor of the loss. Matters where gradients are shortened."}),
        "stop_at": ("FLOAT", {"default": 0.0, "min": -1e6, "max": 1e6, "step": 0.01, "tooltip": "When the mean reward of an "
                    "iteration has reached this, the run ends, so that the policy is not over-trained. 0: never."})}

    @classmethod
    def kind(cls):
        from ...trainers.alignprop import AlignProp
        return AlignProp

    def settings(self, target, stop_at, **own):
        return super().settings(target=target or None, stop_at=stop_at or None, **own)


NODES = {"PTAlignProp": PTAlignProp}
NAMES = {"PTAlignProp": "AlignProp"}
