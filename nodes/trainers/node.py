"""What the trainer nodes have in common: the optimizer's widgets, and those that several show."""
from __future__ import annotations

from ..sockets import MENU, TRAINER

TRAINERS = f"{MENU}/6 Trainers"


def optimizer_inputs(learning_rate: float, updates: int) -> dict:
    """The optimizer's widgets, which every trainer node shows."""
    return {
        "learning_rate": ("FLOAT", {"default": learning_rate, "min": 0.0, "max": 1.0, "step": 1e-6, "round": 1e-9,
                          "tooltip": "How fast the LoRA learns. Too high: the reward rises and collapses; halve it "
                                     "then."}),
        "updates_per_rollout": ("INT", {"default": updates, "min": 1, "max": 64, "tooltip": "Optimizer steps made from "
                                "each rollout."})}


def optimizer_options() -> dict:
    return {
        "max_grad_norm": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1000.0, "step": 0.01,
                          "tooltip": "Gradients longer than this are shortened. 0: never."}),
        "weight_decay": ("FLOAT", {"default": 1e-4, "min": 0.0, "max": 1.0, "step": 1e-5, "round": 1e-7,
                         "tooltip": "Pulls the LoRA gently towards zero."}),
        "warmup_steps": ("INT", {"default": 0, "min": 0, "max": 100000, "tooltip": "Optimizer steps in which the "
                         "learning rate rises from 0."}),
        "decay_steps": ("INT", {"default": 0, "min": 0, "max": 10000000, "tooltip": "Optimizer steps after which the "
                        "learning rate has fallen to a tenth. 0: it stays. A falling rate steadies the end."}),
        "averaging": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 0.9999, "step": 0.0001, "round": 1e-6,
                      "tooltip": "Keeps a running mean of the LoRA, which is what you export. 0: off; 0.9 is usual."}),
        "low_memory": ("BOOLEAN", {"default": False, "tooltip": "Needs much less VRAM and about a third more time. "
                       "Switch it on for large models or when memory runs out."})}


def optimizer(learning_rate, updates_per_rollout, max_grad_norm=1.0, weight_decay=1e-4, warmup_steps=0, decay_steps=0,
              averaging=0.0, low_memory=False):
    from ...trainers.engine.update import Optimizer
    return Optimizer(learning_rate=learning_rate, weight_decay=weight_decay, max_grad_norm=max_grad_norm,
                     warmup=warmup_steps, decay=decay_steps, average=averaging, updates=updates_per_rollout,
                     low_memory=low_memory)


class TrainerNode:
    """A node of trainer settings: SETTINGS are the algorithm's own widgets, ``settings`` makes its value of them."""

    CATEGORY, FUNCTION = TRAINERS, "run"
    RETURN_TYPES, RETURN_NAMES = (TRAINER,), ("trainer",)
    OUTPUT_TOOLTIPS = ("For Train Step and Train. Connect another trainer to change the algorithm.",)
    SETTINGS: dict = {}
    RATE, UPDATES = 3e-4, 1

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {**optimizer_inputs(cls.RATE, cls.UPDATES), **cls.SETTINGS}, "optional": optimizer_options()}

    def run(self, **values):
        from ...trainers.methods import Trainer
        own = {key: values.pop(key) for key in self.SETTINGS}
        return (Trainer(self.settings(**own), optimizer(**values)),)


def clip_range_input(least: float) -> tuple:
    return ("FLOAT", {"default": 1e-4, "min": least, "max": 0.9, "step": 1e-6, "round": 1e-9,
            "tooltip": "How far one rollout may move the policy at each step. Small, since likelihoods are averaged "
                       "over the latent: 0.0001 or less."})


WATCH_KL = ("BOOLEAN", {"default": True, "tooltip": "Measure how far the policy has moved from your model, on one batch "
            "per update, even where it does not act on the training."})
LEVELS = ("INT", {"default": 4, "min": 1, "max": 64, "tooltip": "Noise levels at which each image is used. More is "
          "steadier and costs in proportion."})


def kl_weight_input(default: float) -> tuple:
    return ("FLOAT", {"default": default, "min": 0.0, "max": 1000.0, "step": 1e-4, "round": 1e-7,
            "tooltip": "Holds the policy near your model. 0 is off and saves an evaluation; raise it when pictures lose "
                       "quality while the reward rises."})


GUIDANCE = ("FLOAT", {"default": 0.0, "min": 0.0, "max": 30.0, "step": 0.1, "tooltip": "Guidance scale (cfg) of the teacher, "
            "which the student learns to do without: sample it with cfg 1. 0 takes the guidance that the rollout was sampled "
            "with; 1 is none. Choose what your model was post-trained with."})
