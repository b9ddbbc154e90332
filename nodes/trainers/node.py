"""What the trainer nodes have in common: the optimizer's widgets, and those that several show."""
from __future__ import annotations

from ..sockets import MENU, TRAINER
from ..widgets import filled, left_open

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
# after all others, since it came last
LAST = {
    "adam_epsilon": ("FLOAT", {"max": 1.0, "step": 1e-12, "round": 1e-20, "tooltip": "AdamW's epsilon, 1e-8 as a rule. Gradients "
                     "far smaller than it teach nothing: lower it where a run stands still. With a learning rate of your own "
                     "-1 is 1e-8."})}
OPTIMIZER_FIELDS = {"updates_per_rollout": "updates", "warmup_steps": "warmup", "decay_steps": "decay", "averaging": "average",
                    "adam_epsilon": "epsilon"}
# the widgets of the optimizer that the table of recommended numbers has something to say on
OPEN = ("learning_rate", "updates_per_rollout", "max_grad_norm", "averaging", "adam_epsilon")


def optimizer_kind() -> type:
    from ...trainers.engine.update import Optimizer
    return Optimizer


class TrainerNode:
    """A node of trainer settings. kind(): their class, which has the defaults, limits and menus; SETTINGS: the method's own
    widgets; LATER: those that came later, which stand last, since a workflow keeps its widgets' values by their places, and
    NEWEST: those that came after LAST; RENAMED: the field that a widget sets where it is called otherwise; RATE, UPDATES:
    what the method starts with where the table of recommended numbers does not know it."""

    CATEGORY, FUNCTION = TRAINERS, "run"
    RETURN_TYPES, RETURN_NAMES = (TRAINER,), ("trainer",)
    OUTPUT_TOOLTIPS = ("For Train Step and Train. Connect another trainer to change the algorithm.",)
    SETTINGS: dict = {}
    LATER: dict = {}
    NEWEST: dict = {}
    RENAMED: dict = {}
    RATE, UPDATES = 3e-4, 1

    @classmethod
    def kind(cls) -> type:
        raise NotImplementedError

    @classmethod
    def INPUT_TYPES(cls):
        start = {"learning_rate": (RATE[0], {"default": cls.RATE, **RATE[1]}),
                 "updates_per_rollout": (UPDATES[0], {"default": cls.UPDATES, **UPDATES[1]})}
        return {"required": cls._opened({**filled(start, optimizer_kind(), OPTIMIZER_FIELDS),
                                         **filled(cls.SETTINGS, cls.kind(), cls.RENAMED)}),
                "optional": cls._opened({**filled(OPTIONS, optimizer_kind(), OPTIMIZER_FIELDS),
                                         **filled(cls.LATER, cls.kind(), cls.RENAMED),
                                         **filled(LAST, optimizer_kind(), OPTIMIZER_FIELDS),
                                         **filled(cls.NEWEST, cls.kind(), cls.RENAMED)})}

    @classmethod
    def _opened(cls, widgets: dict) -> dict:
        """Those that the table has a number for begin with the recommended one."""
        known = cls._known()
        return {name: left_open(widget) if name in known else widget for name, widget in widgets.items()}

    @classmethod
    def _known(cls) -> dict[str, str]:
        """Widgets that may be left open -> "part.field" of the table; none where it does not know the method."""
        from ...trainers.recipes.table import fields_of, methods
        if cls.kind().__name__ not in methods():
            return {}
        own = {cls.RENAMED.get(name, name): name for name in (*cls.SETTINGS, *cls.LATER, *cls.NEWEST)}
        known = {own[field]: f"method.{field}" for field in fields_of(cls.kind().__name__) if field in own}
        return known | {name: f"optimizer.{OPTIMIZER_FIELDS.get(name, name)}" for name in OPEN}

    def settings(self, **own):
        return self.kind()(**{self.RENAMED.get(name, name): value for name, value in own.items()})

    def run(self, **values):
        from ...trainers.methods import Trainer
        from ...trainers.recipes.settle import OPEN as ASKED
        known = self._known()
        asked = [name for name, value in values.items() if name in known and value == ASKED]
        given = {name: value for name, value in values.items() if name not in asked}
        own = {name: given.pop(name) for name in (*self.SETTINGS, *self.LATER, *self.NEWEST)
               if name in given}
        # what nothing is known for stays at what the method starts with
        start = {"learning_rate": self.RATE, "updates_per_rollout": self.UPDATES} | given
        optimizer = optimizer_kind()(**{OPTIMIZER_FIELDS.get(name, name): value for name, value in start.items()})
        return (Trainer(self.settings(**own), optimizer, tuple(known[name] for name in asked)),)


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
