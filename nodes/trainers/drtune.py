"""The node of DRTune."""
from __future__ import annotations

from .backprop_node import BackpropNode


class PTDRTune(BackpropNode):
    DESCRIPTION = ("DRTune: trains early sampling steps as well as late ones at little cost, since the gradient goes straight "
                   "from the picture to each step. arXiv:2405.00760")
    RATE, UPDATES = 3e-4, 1
    RENAMED = {"trained_steps": "steps"}
    SETTINGS = {
        "trained_steps": ("INT", {"max": 4096, "tooltip": "How many evenly spaced sampling steps are "
                          "trained in an update. Each costs one more evaluation."}),
        "early_stop": ("INT", {"max": 4095, "tooltip": "Up to this many of the last sampling steps are "
                       "left out by chance, so that the early ones learn to do without them. 0: none."})}

    @classmethod
    def kind(cls):
        from ...trainers.drtune import DRTune
        return DRTune


NODES = {"PTDRTune": PTDRTune}
NAMES = {"PTDRTune": "DRTune"}
