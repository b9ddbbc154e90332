"""What the trainer nodes have in common: the optimizer's widgets, and those that several show."""
from __future__ import annotations

from ..sockets import MENU, TRAINER
from ..widgets import filled

TRAINERS = f"{MENU}/6 Trainers"


RATE = ("FLOAT", {"max": 1.0, "step": 1e-6, "round": 1e-9, "tooltip": "How fast the LoRA learns. Too high: the reward rises and "
        "collapses; halve it then."})
UPDATES = ("INT", {"max": 64, "tooltip": "Optimizer steps made from each rollout."})
OPTIONS = {
    "max_grad_norm": ("FLOAT", {"max": 1000.0, "step": 0.01, "tooltip": "Gradients longer than this are shortened. 0: never."}),
    "weight_decay": ("FLOAT", {"max": 1.0, "step": 1e-5, "round": 1e-7, "tooltip": "Pulls the LoRA gently towards zero."}),
    "warmup_steps": ("INT", {"max": 100000, "tooltip": "Optimizer steps in which the learning rate rises from 0."}),
    "decay_steps": ("INT", {"max": 10000000, "tooltip": "Optimizer steps after which the learning rate has fallen to a tenth. 0: "
                    "it stays. A falling rate steadies the end."}),
    "averaging": ("FLOAT", {"max": 0.9999, "step": 0.0001, "round": 1e-6, "tooltip": "Keeps a running mean of the LoRA, which is "
                  "what you export. 0: off; 0.9 is usual."}),
    "low_memory": ("BOOLEAN", {"tooltip": "Needs much less VRAM and about a third more time. Switch it on for large models or "
                   "when memory runs out."})}
OPTIMIZER_FIELDS = {"updates_per_rollout": "updates", "warmup_steps": "warmup", "decay_steps": "decay", "averaging": "average"}


def optimizer_kind() -> type:
    from ...trainers.engine.update import Optimizer
    return Optimizer


class TrainerNode:
    """A node of trainer settings. kind(): their class, which has the defaults, limits and menus; SETTINGS: the method's own
    widgets; LATER: those that came later, which stand last, since a workflow keeps its widgets' values by their places; RENAMED:
    the field that a widget sets where it is called otherwise; RATE, UPDATES: what the method starts with."""

    CATEGORY, FUNCTION = TRAINERS, "run"
    RETURN_TYPES, RETURN_NAMES = (TRAINER,), ("trainer",)
    OUTPUT_TOOLTIPS = ("For Train Step and Train. Connect another trainer to change the algorithm.",)
    SETTINGS: dict = {}
    LATER: dict = {}
    RENAMED: dict = {}
    RATE, UPDATES = 3e-4, 1

    @classmethod
    def kind(cls) -> type:
        raise NotImplementedError

    @classmethod
    def INPUT_TYPES(cls):
        start = {"learning_rate": (RATE[0], {"default": cls.RATE, **RATE[1]}),
                 "updates_per_rollout": (UPDATES[0], {"default": cls.UPDATES, **UPDATES[1]})}
        return {"required": {**filled(start, optimizer_kind(), OPTIMIZER_FIELDS),
                             **filled(cls.SETTINGS, cls.kind(), cls.RENAMED)},
                "optional": {**filled(OPTIONS, optimizer_kind(), OPTIMIZER_FIELDS),
                             **filled(cls.LATER, cls.kind(), cls.RENAMED)}}

    def settings(self, **own):
        return self.kind()(**{self.RENAMED.get(name, name): value for name, value in own.items()})

    def run(self, **values):
        from ...trainers.methods import Trainer
        own = {key: values.pop(key) for key in (*self.SETTINGS, *self.LATER) if key in values}
        optimizer = optimizer_kind()(**{OPTIMIZER_FIELDS.get(name, name): value for name, value in values.items()})
        return (Trainer(self.settings(**own), optimizer),)


CLIP_RANGE = ("FLOAT", {"max": 0.9, "step": 1e-6, "round": 1e-9, "tooltip": "How far one rollout may move the policy at each "
              "step. Small, since likelihoods are averaged over the latent: 0.0001 or less."})
WATCH_KL = ("BOOLEAN", {"tooltip": "Measure how far the policy has moved from your model, on one batch "
            "per update, even where it does not act on the training."})
LEVELS = ("INT", {"max": 64, "tooltip": "Noise levels at which each image is used. More is "
          "steadier and costs in proportion."})
KL_WEIGHT = ("FLOAT", {"max": 1000.0, "step": 1e-4, "round": 1e-7, "tooltip": "Holds the policy near your model. 0 is off and "
             "saves an evaluation; raise it when pictures lose quality while the reward rises."})
EMPTY_PROMPTS = ("FLOAT", {"max": 0.9, "step": 0.05, "tooltip": "The share of images that are learned with the negative prompt "
                 "instead of their own, which keeps guidance working. 0.1 to 0.2 for models that you sample with cfg above 1 "
                 "(SD1.5, SDXL, SD3); 0 for models without it (Flux, Turbo)."})
GUIDANCE = ("FLOAT", {"max": 30.0, "step": 0.1, "tooltip": "Guidance scale (cfg) of the teacher, "
            "which the student learns to do without: sample it with cfg 1. 0 takes the guidance that the rollout was sampled "
            "with; 1 is none. Choose what your model was post-trained with."})
