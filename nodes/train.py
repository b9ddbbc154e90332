"""Trainer settings (one node for each algorithm), advantages, and the train step that serves them all."""
from __future__ import annotations

from .progress import node_progress
from .sockets import ADVANTAGES, FEEDBACK, MENU, POLICY, ROLLOUT, SCORES, TRAINER

TRAINERS = f"{MENU}/6 Trainers"
RULES = ("group mean, global std", "group mean, group std", "leave one out", "no std", "each reward in its group",
         "per-prompt memory", "batch")


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
    from ..trainers.update import Optimizer
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
        from ..trainers.algorithms import Trainer
        own = {key: values.pop(key) for key in self.SETTINGS}
        return (Trainer(self.settings(**own), optimizer(**values)),)


def clip_range(least: float) -> tuple:
    return ("FLOAT", {"default": 1e-4, "min": least, "max": 0.9, "step": 1e-6, "round": 1e-9,
            "tooltip": "How far one rollout may move the policy at each step. Small, since likelihoods are averaged "
                       "over the latent: 0.0001 or less."})


WATCH_KL = ("BOOLEAN", {"default": True, "tooltip": "Measure how far the policy has moved from your model, on one batch "
            "per update, even where it does not act on the training."})


class PTFlowGRPO(TrainerNode):
    DESCRIPTION = ("Flow-GRPO: images of the same prompt compete; steps that led to better ones become likelier. For "
                   "flow models (SD3, Flux, Lumina) with any reward, also rules. arXiv:2505.05470")
    RATE, UPDATES = 3e-4, 2
    SETTINGS = {
        "clip_range": clip_range(0.0),
        "trust": (("clipped ratio", "guard", "exact KL"), {"tooltip": "How a rollout is kept from moving the policy too "
                  "far. clipped ratio: Flow-GRPO's; guard: GRPO-Guard, less reward hacking; exact KL: Flow-DPPO. For the "
                  "last two set the clip range to 0, their usual value."}),
        "beta": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1000.0, "step": 0.001, "round": 1e-6,
                 "tooltip": "Holds the policy near your model (weight of the KL). 0 is off and saves a third of the "
                            "cost; raise it when pictures lose quality while the reward rises."}),
        "watch_kl": WATCH_KL}

    def settings(self, **own):
        from ..trainers.policy_gradient import FlowGRPO
        return FlowGRPO(**own)


class PTDDPO(TrainerNode):
    DESCRIPTION = ("DDPO: policy gradient on the denoising steps, the classic for SD1.5 and SDXL with any reward. With "
                   "1 update per rollout it is DDPO-SF. arXiv:2305.13301")
    RATE, UPDATES = 3e-4, 2
    SETTINGS = {"clip_range": clip_range(1e-9), "watch_kl": WATCH_KL}

    def settings(self, **own):
        from ..trainers.policy_gradient import DDPO
        return DDPO(**own)


class PTDPOK(TrainerNode):
    DESCRIPTION = ("DPOK: policy gradient with an exact pull to your model at each step. Steadier and slower than DDPO. "
                   "arXiv:2305.16381")
    RATE, UPDATES = 1e-5, 2
    SETTINGS = {
        "clip_range": clip_range(1e-9),
        "reward_weight": ("FLOAT", {"default": 100.0, "min": 0.001, "max": 1e6, "step": 1.0, "tooltip": "Weight of the "
                          "reward against the pull."}),
        "kl_weight": ("FLOAT", {"default": 0.01, "min": 0.0, "max": 1000.0, "step": 0.001, "round": 1e-6, "tooltip":
                      "Weight of the pull to your model."}),
        "value_steps": ("INT", {"default": 0, "min": 0, "max": 10000, "tooltip": "Steps in which a value baseline learns "
                        "from each rollout what reward to expect of a half-drawn image; images that do better become likelier. "
                        "It then takes the place of the advantage rule and works with one image per prompt. 0: off; 10 is "
                        "a good start."})}

    def settings(self, **own):
        from ..trainers.policy_gradient import DPOK
        return DPOK(**own)


class PTAdvantages:
    DESCRIPTION = ("Turns scores into advantages: how much better each image is than what the policy usually makes of "
                   "its prompt.")
    CATEGORY, FUNCTION = f"{MENU}/5 Feedback", "run"
    RETURN_TYPES, RETURN_NAMES = (ADVANTAGES,), ("advantages",)
    OUTPUT_TOOLTIPS = ("For Train Step.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "scores": (SCORES, {"tooltip": "From Score."}),
            "rule": (RULES, {"default": RULES[0], "tooltip": "What an image is compared with. The default is "
                     "Flow-GRPO's; 'per-prompt memory' is DDPO's and works with few images per prompt."}),
            "clip": ("FLOAT", {"default": 5.0, "min": 0.1, "max": 100.0, "step": 0.1,
                     "tooltip": "Advantages beyond this are cut, so that one odd image cannot decide."})},
            "optional": {"policy": (POLICY, {"tooltip": "Needed only by 'per-prompt memory': the policy carries what "
                                             "the rule remembers."})}}

    def run(self, scores, rule, clip, policy=None):
        from ..trainers.advantages import advantages
        if rule == "per-prompt memory" and policy is None:
            raise ValueError("policy: the rule 'per-prompt memory' needs it, since the policy carries what it remembers; "
                             "connect the loop's policy, or choose another rule")
        memory = None if policy is None else policy.memory.get("rewards")
        return (advantages(scores, rule, clip=clip, memory=memory),)


class PTTrainStep:
    DESCRIPTION = ("One train step: a new policy out of the old one, the rollout and the feedback on it. The trainer that "
                   "you connect decides the algorithm.")
    CATEGORY, FUNCTION = TRAINERS, "run"
    RETURN_TYPES, RETURN_NAMES = (POLICY,), ("policy",)
    OUTPUT_TOOLTIPS = ("The policy after the step; connect it to Loop End.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "policy": (POLICY, {"tooltip": "The policy that made the rollout."}),
            "rollout": (ROLLOUT, {"tooltip": "From Rollout."}),
            "trainer": (TRAINER, {"tooltip": "An algorithm with its settings: Flow-GRPO, DDPO ..."})},
            "optional": {"feedback": (FEEDBACK, {"tooltip": "From Advantages (or Preferences), of this rollout's scores. "
                         "Distillation trainers need none and only show the scores on the curve."})},
            "hidden": {"unique_id": "UNIQUE_ID"}}

    def run(self, policy, rollout, trainer, feedback=None, unique_id=None):
        from ..trainers.algorithms import train_step
        return (train_step(policy, rollout, feedback, trainer, progress=node_progress(unique_id)),)


NODES = {"PTFlowGRPO": PTFlowGRPO, "PTDDPO": PTDDPO, "PTDPOK": PTDPOK, "PTAdvantages": PTAdvantages, "PTTrainStep": PTTrainStep}
NAMES = {"PTFlowGRPO": "Flow-GRPO", "PTDDPO": "DDPO", "PTDPOK": "DPOK", "PTAdvantages": "Advantages", "PTTrainStep": "Train Step"}
