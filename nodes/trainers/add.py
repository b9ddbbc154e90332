"""The node of ADD distillation."""
from __future__ import annotations

from .node import GUIDANCE, LEVELS, TrainerNode


class PTADD(TrainerNode):
    DESCRIPTION = ("ADD: teaches your model to draw in 1 to 4 steps, without guidance, by a contest with a small discriminator "
                   "that learns to tell its pictures from those of its teacher. Put your post-trained LoRA on the model before "
                   "Create Policy: that model is the teacher, and should make the rollout. Needs no reward. arXiv:2311.17042")
    RATE, UPDATES = 1e-4, 4
    SETTINGS = {
        "student_steps": ("INT", {"max": 50, "tooltip": "The steps that you will sample with. The "
                          "student learns at the noise levels of just these; fewer steps than this also work."}),
        "guidance": GUIDANCE,
        "distill_weight": ("FLOAT", {"max": 1000.0, "step": 0.1, "tooltip": "Weight of the "
                           "teacher's opinion against the discriminator's. Raise it where pictures lose their content, lower "
                           "it where they are blurred."}),
        "discriminator_rate": ("FLOAT", {"min": 1e-7, "max": 1.0, "step": 1e-5, "round": 1e-8, "tooltip":
                               "How fast the discriminator learns. Lower it where real_logit stays above 1 and fake_logit "
                               "below -1 for long: then the student has no chance."}),
        "judge_noise": ("FLOAT", {"min": 0.05, "max": 0.9, "step": 0.01, "tooltip": "How much noise there is in "
                        "what the discriminator looks at: little shows it the details, much the composition."}),
        "r1_weight": ("FLOAT", {"max": 1000.0, "step": 1e-5, "round": 1e-8, "tooltip": "Keeps "
                      "the discriminator smooth. The paper's is tiny; raise it where the curves are wild."}),
        "levels": LEVELS}

    @classmethod
    def kind(cls):
        from ...trainers.add import ADD
        return ADD


NODES = {"PTADD": PTADD}
NAMES = {"PTADD": "ADD Distillation"}
