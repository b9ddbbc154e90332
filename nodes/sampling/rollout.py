"""Sampling settings, the rollout, and a rollout made of latents from any sampler."""
from __future__ import annotations

from dataclasses import replace

from ...trainers.run import say_once
from ..loop.readers import means_are_read
from ..progress import node_progress
from ..sockets import MENU, POLICY, PROMPTS, ROLLOUT, SAMPLING, SEED
from ..widgets import CHOICE, filled, left_open

CATEGORY = f"{MENU}/3 Rollout"
WORTH_SAYING = 2**28  # bytes
# the settings that the table of recommended numbers has something to say on
RECOMMENDED = ("steps", "guidance", "prompts_per_iteration", "images_per_prompt", "transition", "noise_level", "noisy_steps",
               "window")


def schedulers():
    import comfy.samplers
    return comfy.samplers.KSampler.SCHEDULERS


class PTSampling:
    DESCRIPTION = "How images are made while training: size, steps, how many per prompt, and which steps are random."
    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (SAMPLING,), ("sampling",)
    OUTPUT_TOOLTIPS = ("Settings for Rollout and Train.",)

    @classmethod
    def INPUT_TYPES(cls):
        from ...trainers.sampling.settings import Sampling
        whole = {"min": 1, "max": 4096}
        inputs = {"required": filled({
            "width": ("INT", {"min": 8, "max": 8192, "step": 8, "tooltip": "Image width in pixels. "
                              "Train at the size that you will use."}),
            "height": ("INT", {"min": 8, "max": 8192, "step": 8, "tooltip": "Image height in pixels."}),
            "steps": ("INT", {**whole, "tooltip": "Sampling steps while training. Fewer than you use "
                              "for pictures is fine and faster: 8 to 12."}),
            "scheduler": (schedulers(), {"tooltip": "Noise levels, as in KSampler."}),
            "guidance": ("FLOAT", {"min": 1.0, "max": 30.0, "step": 0.1,
                         "tooltip": "Classifier-free guidance scale (cfg). 1 is off and halves the cost; training "
                                    "then teaches the model to do without it."}),
            "prompts_per_iteration": ("INT", {**whole, "tooltip": "Different prompts in an iteration. "
                                      "More is steadier and slower."}),
            "images_per_prompt": ("INT", {**whole, "tooltip": "Images of each prompt, compared with "
                                  "each other. 8 to 24; never 1 for group rules."}),
            "batch_size": ("INT", {**whole, "tooltip": "Images computed at once. Lower it when memory "
                           "runs out; the result stays the same."}),
            "seed": ("INT", {**SEED, "tooltip": "Decides prompts and noise of every iteration."})}, Sampling),
            "optional": filled({
            "transition": (CHOICE, {"tooltip": "How a random step is made. auto: flow_sde for "
                           "flow models (SD3, Flux, Lumina), ddim for SD1.5 and SDXL. deterministic: no randomness, "
                           "only for trainers without likelihood."}),
            "noise_level": ("FLOAT", {"min": 0.0, "max": 3.0, "step": 0.01,
                            "tooltip": "Strength of the randomness: a in Flow-GRPO, eta in DDIM. 0 takes the usual "
                                       "value for 'auto' (0.7 and 1)."}),
            "first_noisy_step": ("INT", {"min": 0, "max": 4096, "tooltip": "The first random step. Early "
                                 "steps decide the composition."}),
            "noisy_steps": ("INT", {"min": 0, "max": 4096, "tooltip": "How many steps are random and "
                            "trained. 0: all but the last. Fewer is cheaper."}),
            "window": (CHOICE, {"tooltip": "Whether the random steps stay, jump or move from "
                       "iteration to iteration; slowly: only after every 25 of them. one step for each prompt: only one "
                       "of them is random for all images of a prompt, another in each iteration, as Flash-GRPO: cheap, with a "
                       "batch size that holds images of one prompt. branches of one trunk: a prompt's images leave one quiet "
                       "way at different steps, each compared with those of its step, as TempFlow-GRPO; images per prompt: "
                       "2 or more times the random steps."}),
            "same_start": ("BOOLEAN", {"tooltip": "All images of a prompt start from the same "
                           "noise, so they differ only by the random steps. With a later first noisy step they are also "
                           "cheaper: the steps before it are computed once for each prompt."})}, Sampling)}
        return {kind: {name: left_open(widget) if name in RECOMMENDED else widget for name, widget in widgets.items()}
                for kind, widgets in inputs.items()}

    def run(self, **settings):
        from ...trainers.recipes import settle
        from ...trainers.sampling.settings import Sampling
        asked = tuple(name for name in RECOMMENDED if settings.get(name) in (settle.OPEN, settle.RECOMMENDED))
        given = {name: value for name, value in settings.items() if name not in asked}
        return (Sampling(**given, open=asked),)


class PTRollout:
    DESCRIPTION = ("Samples images with the policy as it is now and keeps what a trainer needs. The images and latents "
                   "come out as ordinary sockets, to look at or to use.")
    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (ROLLOUT, "IMAGE", "LATENT"), ("rollout", "images", "latents")
    OUTPUT_TOOLTIPS = ("For Score and Train Step.", "The images, for a preview.", "The clean latents.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "policy": (POLICY, {"tooltip": "Inside a loop: from Loop Start."}),
            "prompts": (PROMPTS, {"tooltip": "From Encode Prompts."}),
            "vae": ("VAE", {"tooltip": "The model's VAE."}),
            "sampling": (SAMPLING, {"tooltip": "From Sampling Settings."})},
            "optional": {
            "iteration": ("INT", {"default": 0, "min": 0, "max": 2**31, "forceInput": True,
                          "tooltip": "From Loop Start: decides which prompts and which noise this time. Unwired, the policy's "
                                     "own count of train steps does."})},
            "hidden": {"unique_id": "UNIQUE_ID", "dynprompt": "DYNPROMPT"}}

    def run(self, policy, prompts, vae, sampling, iteration=None, unique_id=None, dynprompt=None):
        from ...trainers.policy.latents import to_latent_socket
        from ...trainers.run.steering import asked_weights
        from ...trainers.sampling.rollout import rollout
        iteration = policy.iteration if iteration is None else iteration
        made = rollout(policy, prompts, vae, sampling, iteration, keep_means=means_are_read(dynprompt, unique_id),
                       tell=say_need, progress=node_progress(unique_id, policy.model))
        made = replace(made, reward_weights=asked_weights(policy))
        return (made, made.images, to_latent_socket(policy.model, made.latents))


def say_need(need) -> None:
    """What a rollout needs, once in a training; on the page where it is worth a word."""
    if need.in_ram + need.on_disk >= WORTH_SAYING:
        say_once("need of a rollout", need.words())


class PTRolloutFromLatents:
    DESCRIPTION = ("A rollout made of latents from any sampler of ComfyUI (KSampler, ControlNet, your own nodes). It "
                   "has no trajectory, so it serves the trainers that need none.")
    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = (ROLLOUT, "IMAGE"), ("rollout", "images")
    OUTPUT_TOOLTIPS = ("For Score and Train Step.", "The decoded images.")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {
            "policy": (POLICY, {"tooltip": "The policy to train; its model must be the one that sampled."}),
            "latent": ("LATENT", {"tooltip": "Finished latents from a sampler."}),
            "prompts": (PROMPTS, {"tooltip": "From Encode Prompts, with the prompt that was sampled in it."}),
            "vae": ("VAE", {"tooltip": "The model's VAE, to show the images to the reward."}),
            "prompt_number": ("INT", {"default": 0, "min": 0, "max": 1_000_000, "tooltip": "Which of the prompts the "
                              "latents were made for, counted from 1. 0: the batch holds all prompts in order, equally "
                              "many images of each."}),
            "guidance": ("FLOAT", {"default": 1.0, "min": 1.0, "max": 30.0, "step": 0.1,
                         "tooltip": "The cfg that the sampler used."})}}

    def run(self, policy, latent, prompts, vae, prompt_number, guidance):
        from ...trainers.policy.latents import from_latent_socket
        from ...trainers.run.steering import asked_weights
        from ...trainers.sampling.rollout import rollout_from_latents
        latents = from_latent_socket(policy.model, latent)
        made = rollout_from_latents(policy, latents, prompts, vae, prompt_number, guidance)
        return (replace(made, reward_weights=asked_weights(policy)), made.images)


NODES = {"PTSampling": PTSampling, "PTRollout": PTRollout, "PTRolloutFromLatents": PTRolloutFromLatents}
NAMES = {"PTSampling": "Sampling Settings", "PTRollout": "Rollout", "PTRolloutFromLatents": "Rollout from Latents"}
