"""The node of LCM distillation."""
from __future__ import annotations

from .node import GUIDANCE, LEVELS, TrainerNode


class PTLCM(TrainerNode):
    DESCRIPTION = ("LCM-LoRA: teaches your model to draw in 2 to 8 steps, without guidance, what it now needs many steps for. "
                   "Put your post-trained LoRA on the model before Create Policy: that model is the teacher. Needs no reward. "
                   "arXiv:2311.05556")
    RATE, UPDATES = 1e-4, 4
    SETTINGS = {
        "teacher_steps": ("INT", {"max": 1000, "tooltip": "Sampling steps of the teacher: as many as "
                          "its pictures need, and a multiple of the student's. The plain LCM's paper has 50."}),
        "student_steps": ("INT", {"max": 50, "tooltip": "The steps that you will sample with; the "
                          "student learns to take each of them at once, and is sampled like its teacher (euler). 0 is the "
                          "plain LCM, for the sampler lcm and any number of steps: harder to learn, it takes longer."}),
        "guidance": GUIDANCE,
        "distance": (("squares", "huber"), {"tooltip": "How the student's error is measured. squares is the official default; "
                     "huber forgives large errors and learns more slowly."}),
        "levels": LEVELS}

    @classmethod
    def kind(cls):
        from ...trainers.lcm import LCM
        return LCM

    def settings(self, distance, **own):
        from ...trainers.lcm import HUBER
        return super().settings(**own, huber=HUBER if distance == "huber" else None)


NODES = {"PTLCM": PTLCM}
NAMES = {"PTLCM": "LCM Distillation"}
