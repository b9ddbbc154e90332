"""Nodes that only `develop.py prove` uses: the control of every claim of learning, and how far a training has led."""
from __future__ import annotations

from dataclasses import replace


class ShuffleScores:
    DESCRIPTION = "Gives every image the score of a random one. What still rises then is not learned from the reward."
    CATEGORY, FUNCTION, RETURN_TYPES = "PostTrain control", "run", ("PT_SCORES",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"scores": ("PT_SCORES",), "iteration": ("INT", {"forceInput": True}),
                             "seed": ("INT", {"default": 0})}}

    def run(self, scores, iteration, seed):
        import torch

        generator = torch.Generator().manual_seed(1_000_003 * seed + iteration)
        order = torch.randperm(len(scores.values), generator=generator)
        return (replace(scores, values=scores.values[order]),)


class Skill:
    DESCRIPTION = "The demo world's checker, which looks at one skill alone."
    CATEGORY, FUNCTION, RETURN_TYPES = "PostTrain control", "run", ("PT_REWARD",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"checker": ("PT_REWARD",), "skill": (["number", "colours"],)}}

    def run(self, checker, skill):
        return (type(checker)(skill),)


class PredictionDistance:
    DESCRIPTION = ("Mean squared difference of two models' predictions (noise or velocity, each element) for the same noised "
                   "latents, over four noise levels; one step of the stock sampler to the end is the denoised answer.")
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "PostTrain control", "run", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"before": ("MODEL",), "after": ("MODEL",), "positive": ("CONDITIONING",), "latent": ("LATENT",),
                             "seed": ("INT", {"default": 0})}}

    def run(self, before, after, positive, latent, seed):
        import comfy.sample
        import comfy.samplers

        clean = latent["samples"]
        noise, inner = comfy.sample.prepare_noise(clean, seed), before.get_model_object("latent_format").process_in
        found = []
        for denoise in (1.0, 1 / 2, 1 / 3, 1 / 4):
            one, other = (inner(comfy.sample.sample(model, noise, 1, 1.0, "euler", "simple", positive, positive, clean,
                                                    denoise=denoise, seed=seed)) for model in (before, after))
            sigma = comfy.samplers.KSampler(before, 1, before.load_device, "euler", "simple", denoise).sigmas[0]
            found.append(float((((one - other) / sigma.to(one)) ** 2).mean()))
        return {"ui": {"text": [repr(sum(found) / len(found))]}}


NODE_CLASS_MAPPINGS = {"ControlShuffleScores": ShuffleScores, "ControlPredictionDistance": PredictionDistance, "ControlSkill": Skill}
