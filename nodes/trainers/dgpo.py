"""The node of DGPO."""
from __future__ import annotations

from .node import KL_WEIGHT, LEVELS, TrainerNode


class PTDGPO(TrainerNode):
    DESCRIPTION = ("DGPO: the better part of each prompt's images is preferred to the worse part. Needs several images per "
                   "prompt and a batch size of at least that many. arXiv:2510.08425")
    RATE, UPDATES = 3e-4, 1
    SETTINGS = {
        "beta": ("FLOAT", {"min": 0.01, "max": 100000.0, "step": 1.0, "tooltip": "How quickly a group "
                 "that is already well ordered counts less. 10 to 100."}),
        "clip_range": ("FLOAT", {"max": 1.0, "step": 1e-5, "round": 1e-7, "tooltip": "Images "
                       "that one rollout has already moved this far are left alone, so it acts from its second update on. 0 is "
                       "off."}),
        "kl_weight": KL_WEIGHT, "levels": LEVELS}
    LATER = {
        "noisiest": ("FLOAT", {"max": 1.0, "step": 0.05, "tooltip": "The share of the sampling steps, from the first on, at "
                     "whose noise levels images are learned. 1 is all; 0.7 is the official code's."}),
        "reference_guidance": ("FLOAT", {"max": 30.0, "step": 0.1, "tooltip": "Guidance scale (cfg) at which your model is "
                               "asked for comparison. 1 is none; about 4.5 where you sample without guidance and the policy "
                               "shall learn to do without."})}

    @classmethod
    def kind(cls):
        from ...trainers.dgpo import DGPO
        return DGPO


NODES = {"PTDGPO": PTDGPO}
NAMES = {"PTDGPO": "DGPO"}
