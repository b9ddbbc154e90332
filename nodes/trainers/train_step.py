"""The two train steps: from a rollout and feedback on it, and through the reward."""
from __future__ import annotations

from ..progress import node_progress
from ..sockets import FEEDBACK, POLICY, PROMPTS, REWARD, ROLLOUT, SAMPLING, TRAINER
from .backprop_node import STEP
from .node import TRAINERS


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
        from ...trainers.methods import train_step
        return (train_step(policy, rollout, feedback, trainer, progress=node_progress(unique_id)),)


class PTBackpropStep:
    DESCRIPTION = ("One train step through the reward: makes images and changes the policy along the reward's own gradient. "
                   "It takes the place of Rollout, Score, Advantages and Train Step for DRaFT, AlignProp, ReFL, DRTune and "
                   "SRPO.")
    CATEGORY, FUNCTION = TRAINERS, "run"
    RETURN_TYPES, RETURN_NAMES = (POLICY, "IMAGE"), ("policy", "images")
    OUTPUT_TOOLTIPS = ("The policy after the step; connect it to Loop End.", "The images of this step, for a preview.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "policy": (POLICY, {"tooltip": "Inside a loop: from Loop Start."}),
            "prompts": (PROMPTS, {"tooltip": "From Encode Prompts."}),
            "vae": ("VAE", {"tooltip": "The model's VAE; the gradient goes through it."}),
            "reward": (REWARD, {"tooltip": "A differentiable reward: colours, PickScore, HPS, CLIPScore, ImageReward, "
                                "aesthetics, classifiers."}),
            "sampling": (SAMPLING, {"tooltip": "From Sampling Settings. With transition 'auto' and noise level 0 no step is "
                                    "random here. Few images are enough: 4 to 16 an iteration."}),
            "trainer": (TRAINER, {"tooltip": "DRaFT, AlignProp, ReFL, DRTune or SRPO with its settings."}),
            "iteration": ("INT", {"default": 0, "min": 0, "max": 2**31, "forceInput": True,
                          "tooltip": "From Loop Start: decides which prompts and which noise this time."})},
            "optional": {"pretraining_images": (ROLLOUT, {"tooltip": "Only for ReFL with a pretraining weight: good images "
                                                "with their prompts, from Rollout from Latents."})},
            "hidden": {"unique_id": "UNIQUE_ID"}}

    def run(self, policy, prompts, vae, reward, sampling, trainer, iteration, pretraining_images=None, unique_id=None):
        from ...trainers.methods import backprop_step
        return backprop_step(policy, prompts, vae, reward, sampling, trainer, iteration, data=pretraining_images,
                             progress=node_progress(unique_id, policy.model))


NODES = {"PTTrainStep": PTTrainStep, "PTBackpropStep": PTBackpropStep}
NAMES = {"PTTrainStep": "Train Step", "PTBackpropStep": STEP}
