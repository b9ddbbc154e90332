"""Trainers that follow the gradient of the reward itself through the sampler, and the step that serves them."""
from __future__ import annotations

from .progress import node_progress
from .sockets import MENU, POLICY, PROMPTS, REWARD, ROLLOUT, SAMPLING, TRAINER
from .train import TRAINERS, TrainerNode

STEP = "Train Step (through the reward)"


def part(default: float, text: str, least: float = 0.0, most: float = 1.0) -> tuple:
    return ("FLOAT", {"default": default, "min": least, "max": most, "step": 0.01, "tooltip": text})


class BackpropNode(TrainerNode):
    OUTPUT_TOOLTIPS = (f"For {STEP} and Train. Connect another trainer to change the algorithm.",)

    @classmethod
    def INPUT_TYPES(cls):
        inputs = super().INPUT_TYPES()
        reword(inputs["required"], "updates_per_rollout", "Optimizer steps in an iteration. The images are divided among "
               "them; 1 is the steadiest.")
        reword(inputs["optional"], "low_memory", "Decodes the images one by one and keeps still less of the model, which "
               "takes up to half more time. Switch it on for large images or when memory runs out.")
        return inputs


def reword(inputs: dict, name: str, tooltip: str) -> None:
    kind, options = inputs[name]
    inputs[name] = (kind, {**options, "tooltip": tooltip})


class PTDRaFT(BackpropNode):
    DESCRIPTION = ("DRaFT: changes the picture directly towards a higher reward, by the reward's own gradient through the "
                   "last sampling steps. Learns from very few images, but needs a differentiable reward. "
                   "arXiv:2309.17400")
    RATE, UPDATES = 3e-4, 1
    SETTINGS = {
        "backprop_steps": ("INT", {"default": 1, "min": 0, "max": 4096, "tooltip": "How many of the last sampling steps "
                           "carry gradient. 1 is cheap, steady and changes details and colours; more reach the composition. "
                           "0: all of them."}),
        "extra_noises": ("INT", {"default": 0, "min": 0, "max": 64, "tooltip": "DRaFT-LV: the finished image is noised and "
                         "finished again this many times, which steadies the gradient. Only with 1 step; 2 is usual."}),
        "kl_weight": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1000.0, "step": 0.01, "round": 1e-6, "tooltip": "Holds the "
                      "policy near your model at the steps with gradient. 0 is off; raise it when pictures become "
                      "strange while the reward rises."})}

    def settings(self, backprop_steps, **own):
        from ..trainers.backprop import DRaFT
        return DRaFT(steps=backprop_steps, **own)


class PTAlignProp(BackpropNode):
    DESCRIPTION = ("AlignProp: like DRaFT, with a random number of steps that carry gradient, and an end: it rests when the "
                   "reward is high enough. arXiv:2310.03739")
    RATE, UPDATES = 1e-3, 1
    SETTINGS = {
        "truncation": (("gaussian", "uniform"), {"tooltip": "How many of the last steps carry gradient, drawn anew for every "
                       "update. gaussian: about a sixth of them, the official choice; uniform: any number from one to all."}),
        "target": ("FLOAT", {"default": 0.0, "min": -1e6, "max": 1e6, "step": 0.1, "tooltip": "The reward is pulled to this "
                   "value, and back from beyond it; 10 is official for aesthetics. 0: as high as it will go."}),
        "coefficient": ("FLOAT", {"default": 0.01, "min": 1e-6, "max": 1000.0, "step": 0.001, "round": 1e-6, "tooltip":
                        "Factor of the loss. Matters where gradients are shortened."}),
        "stop_at": ("FLOAT", {"default": 0.0, "min": -1e6, "max": 1e6, "step": 0.01, "tooltip": "When the mean reward of an "
                    "iteration has reached this, the run ends, so that the policy is not over-trained. 0: never."})}

    def settings(self, target, stop_at, **own):
        from ..trainers.backprop import AlignProp
        return AlignProp(target=target or None, stop_at=stop_at or None, **own)


class PTReFL(BackpropNode):
    DESCRIPTION = ("ReFL: walks to a random late step without gradient, lets the model guess the finished picture from "
                   "there, and follows the reward's gradient through that one guess. The cheapest of its kind. "
                   "arXiv:2304.05977")
    RATE, UPDATES = 1e-4, 1
    SETTINGS = {
        "earliest": part(0.75, "Where on the way the guess is made, at the earliest: 0 is pure noise, 1 the finished picture."),
        "latest": part(1.0, "Where on the way the guess is made, at the latest."),
        "margin": ("FLOAT", {"default": 2.0, "min": -1e6, "max": 1e6, "step": 0.1, "tooltip": "Pictures with a reward from "
                   "here on are good enough and are left alone. 2 suits ImageReward; suit it to your reward."}),
        "scale": ("FLOAT", {"default": 1e-3, "min": 1e-9, "max": 1000.0, "step": 1e-4, "round": 1e-9, "tooltip": "Factor of "
                  "the reward's part of the loss, against the pretraining part."}),
        "pretrain_weight": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1000.0, "step": 0.01, "round": 1e-6, "tooltip":
                            f"How much the model also goes on learning from the pretraining images of {STEP}, so that it "
                            "stays a model of images. 0: not at all, as in the official code."})}

    def settings(self, **own):
        from ..trainers.backprop import ReFL
        return ReFL(**own)


class PTDRTune(BackpropNode):
    DESCRIPTION = ("DRTune: trains early sampling steps as well as late ones at little cost, since the gradient goes straight "
                   "from the picture to each step. arXiv:2405.00760")
    RATE, UPDATES = 3e-4, 1
    SETTINGS = {
        "trained_steps": ("INT", {"default": 3, "min": 1, "max": 4096, "tooltip": "How many evenly spaced sampling steps are "
                          "trained in an update. Each costs one more evaluation."}),
        "early_stop": ("INT", {"default": 2, "min": 0, "max": 4095, "tooltip": "Up to this many of the last sampling steps are "
                       "left out by chance, so that the early ones learn to do without them. 0: none."})}

    def settings(self, trained_steps, early_stop):
        from ..trainers.backprop import DRTune
        return DRTune(trained_steps, early_stop)


class PTSRPO(BackpropNode):
    DESCRIPTION = ("SRPO: makes pictures more like one wording of their prompt and less like another, at any noise level. "
                   "Very fast; needs a differentiable reward that reads the prompt (HPS, PickScore, CLIPScore). "
                   "arXiv:2509.06942")
    RATE, UPDATES = 1e-4, 1
    SETTINGS = {
        "wanted": ("STRING", {"default": "Realistic photo", "tooltip": "Put before the prompt: what pictures shall be more "
                   "like."}),
        "unwanted": ("STRING", {"default": "CG Render", "tooltip": "Put before the prompt: what pictures shall be less "
                     "like."}),
        "earliest": part(0.1, "Where on the way a picture is looked at, at the earliest: 0 is pure noise. Very early "
                              "damages the structure."),
        "latest": part(0.5, "Where on the way a picture is looked at, at the latest. Very late teaches colours only."),
        "length": part(0.1, "How long the one step is, as a part of the way.", 0.01, 0.99),
        "threshold": ("FLOAT", {"default": 0.7, "min": -1e6, "max": 1e6, "step": 0.05, "tooltip": "Pictures whose wanted wording "
                      "is ahead by this much are left alone. 0.7 suits HPS and CLIPScore; PickScore has larger numbers."})}

    def settings(self, **own):
        from ..trainers.direct_align import SRPO
        return SRPO(**own)


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
        from ..trainers.algorithms import backprop_step
        return backprop_step(policy, prompts, vae, reward, sampling, trainer, iteration, data=pretraining_images,
                             progress=node_progress(unique_id, policy.model))


class PTPolicyHooks:
    DESCRIPTION = ("The policy as hooks whose strength changes along the sampling steps, for example full at the start, "
                   "where the composition is made, and half at the end. Connect it to Cond Pair Set Props. Softens what a "
                   "trainer through the reward has overdone.")
    CATEGORY, FUNCTION = f"{MENU}/8 Export", "run"
    RETURN_TYPES, RETURN_NAMES = ("HOOKS",), ("hooks",)
    OUTPUT_TOOLTIPS = ("For ComfyUI's own hook nodes, with your model (not the one of Policy to Model) in KSampler.",)

    @classmethod
    def INPUT_TYPES(cls):
        strength = {"min": -4.0, "max": 4.0, "step": 0.05}
        return {"required": {
            "policy": (POLICY, {"tooltip": "A policy, trained or on its way."}),
            "strength_at_start": ("FLOAT", {**strength, "default": 1.0, "tooltip": "At the first sampling step. 1 is what was "
                                  "trained, 0 is your model as it was."}),
            "strength_at_end": ("FLOAT", {**strength, "default": 0.5, "tooltip": "At the last sampling step; in between it "
                                "changes evenly."})}}

    def run(self, policy, strength_at_start, strength_at_end):
        from ..trainers.policy import policy_as_hooks
        return (policy_as_hooks(policy, strength_at_start, strength_at_end),)


NODES = {"PTDRaFT": PTDRaFT, "PTAlignProp": PTAlignProp, "PTReFL": PTReFL, "PTDRTune": PTDRTune, "PTSRPO": PTSRPO,
         "PTBackpropStep": PTBackpropStep, "PTPolicyHooks": PTPolicyHooks}
NAMES = {"PTDRaFT": "DRaFT", "PTAlignProp": "AlignProp", "PTReFL": "ReFL", "PTDRTune": "DRTune", "PTSRPO": "SRPO",
         "PTBackpropStep": STEP, "PTPolicyHooks": "Policy to Hooks (annealed)"}
