"""Trainers that make a post-trained model draw in few steps: consistency distillation."""
from __future__ import annotations

from .train import TrainerNode
from .trainers_matching import LEVELS

GUIDANCE = ("FLOAT", {"default": 0.0, "min": 0.0, "max": 30.0, "step": 0.1, "tooltip": "Guidance scale (cfg) of the teacher, "
            "which the student learns to do without: sample it with cfg 1. 0 takes the guidance that the rollout was sampled "
            "with; 1 is none. Choose what your model was post-trained with."})


class PTLCM(TrainerNode):
    DESCRIPTION = ("LCM-LoRA: teaches your model to draw in 4 to 8 steps, without guidance, what it now needs many steps for. "
                   "Put your post-trained LoRA on the model before Create Policy: that model is the teacher. Needs no reward. "
                   "arXiv:2311.05556")
    RATE, UPDATES = 1e-4, 4
    SETTINGS = {
        "teacher_steps": ("INT", {"default": 50, "min": 2, "max": 1000, "tooltip": "Sampling steps of the teacher, which the "
                          "student learns to skip. 50 is the paper's. Fewer learn sooner and are less exact: 16 where time is "
                          "short. A multiple of the steps that you will sample with."}),
        "guidance": GUIDANCE,
        "distance": (("squares", "huber"), {"tooltip": "How the student's error is measured. squares is the official default; "
                     "huber forgives large errors and learns more slowly."}),
        "levels": LEVELS}

    def settings(self, distance, **own):
        from ..trainers.distillation import HUBER, LCM
        return LCM(**own, huber=HUBER if distance == "huber" else None)


NODES = {"PTLCM": PTLCM}
NAMES = {"PTLCM": "LCM Distillation"}
