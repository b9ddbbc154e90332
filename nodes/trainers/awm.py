"""The node of advantage weighted matching."""
from __future__ import annotations

from ..widgets import CHOICE
from .node import KL_WEIGHT, LEVELS, TrainerNode


class PTAWM(TrainerNode):
    DESCRIPTION = ("Advantage weighted matching: the loss your model was pretrained with, weighted by how good each image "
                   "is. Very fast, less forgiving than DiffusionNFT. arXiv:2509.25050")
    RATE, UPDATES = 3e-4, 1
    SETTINGS = {
        "weighting": (CHOICE, {"tooltip": "How noise levels are balanced. ghuber "
                      "is the paper's."}),
        "clip_range": ("FLOAT", {"min": 1e-6, "max": 100.0, "step": 1e-3, "round": 1e-7,
                       "tooltip": "How far one rollout may move the policy. On another scale than Flow-GRPO's: 1 hardly "
                                  "ever acts."}),
        "ema_beta": ("FLOAT", {"max": 100.0, "step": 0.01, "tooltip": "Holds the policy near "
                     "what it was a few iterations ago. The main brake of this trainer; 0 is off."}),
        "beta": KL_WEIGHT, "levels": LEVELS}

    @classmethod
    def kind(cls):
        from ...trainers.awm import AWM
        return AWM


NODES = {"PTAWM": PTAWM}
NAMES = {"PTAWM": "Advantage Weighted Matching"}
