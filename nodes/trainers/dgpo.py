"""The node of DGPO."""
from __future__ import annotations

from .node import LEVELS, TrainerNode, kl_weight_input


class PTDGPO(TrainerNode):
    DESCRIPTION = ("DGPO: the better part of each prompt's images is preferred to the worse part. Needs several images per "
                   "prompt and a batch size of at least that many. arXiv:2510.08425")
    RATE, UPDATES = 3e-4, 1
    SETTINGS = {
        "beta": ("FLOAT", {"default": 100.0, "min": 0.01, "max": 100000.0, "step": 1.0, "tooltip": "How quickly a group "
                 "that is already well ordered counts less. 10 to 100."}),
        "clip_range": ("FLOAT", {"default": 1e-3, "min": 0.0, "max": 1.0, "step": 1e-5, "round": 1e-7, "tooltip": "Images "
                       "that one rollout has already moved this far are left alone, so it acts from its second update on. 0 is "
                       "off."}),
        "kl_weight": kl_weight_input(1e-3), "levels": LEVELS}

    def settings(self, **own):
        from ...trainers.dgpo import DGPO
        return DGPO(**own)


NODES = {"PTDGPO": PTDGPO}
NAMES = {"PTDGPO": "DGPO"}
