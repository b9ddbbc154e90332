"""What the host's own KSampler path answers at every step, to hold the policy's answers against."""
from __future__ import annotations

from dataclasses import dataclass

import comfy.samplers
import torch
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from posttrain.trainers.policy.levels import PRESERVING
from small_models import CPU, SIZE, conditioning, prompts_for

SEED = 3


@dataclass(frozen=True)
class Step:
    """One question of the host's sampler, its answer, and where torch's random numbers stood before it."""

    x: torch.Tensor
    sigma: torch.Tensor
    denoised: torch.Tensor
    random: torch.Tensor


@dataclass(frozen=True)
class Sampled:
    steps: list[Step]
    sigmas: torch.Tensor
    latents: torch.Tensor


def own_sampler():
    from comfy_extras.nodes_void import VOIDSampler

    return VOIDSampler.execute().result[0]


def sampled(model, kind: str, guidance: float, steps: int = 2, batch: int = 2, positive=None, negative=None) -> Sampled:
    """The host's whole sampling of ``batch`` images of one prompt, with every step that it asked for."""
    seen: list[Step] = []

    def euler(denoise, x, sigmas, extra_args=None, **_):
        for sigma, following in zip(sigmas[:-1], sigmas[1:]):
            random, level = torch.get_rng_state(), sigma * x.new_ones([len(x)])
            denoised = denoise(x, level, **extra_args)
            seen.append(Step(*(t.clone() for t in (x, level, denoised, random))))
            x = x + (x - denoised) / sigma * (following - sigma)
        return x

    def told(_, denoised, x, __):
        """Of the host's sampler for models that are asked about variance-preserving states: the path's are another scale."""
        level = sigmas[len(seen)] * x.new_ones([len(x)])
        state = x * (1 + sigmas[len(seen)] ** 2).sqrt()
        seen.append(Step(*(t.clone() for t in (state, level, denoised, torch.get_rng_state()))))

    preserving = isinstance(model.get_model_object("model_sampling"), PRESERVING)
    torch.manual_seed(SEED)
    with torch.inference_mode():  # as a node runs
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
        noise = torch.randn((batch, *SIZE[kind]), generator=torch.Generator().manual_seed(SEED))
        latents = comfy.samplers.sample(
            model, noise, positive or conditioning(kind, 1), negative or conditioning(kind, 3), guidance, CPU,
            own_sampler() if preserving else comfy.samplers.KSAMPLER(euler), sigmas, model_options=model.model_options,
            callback=told if preserving else None, latent_image=torch.zeros_like(noise), seed=SEED, disable_pbar=True)
    return Sampled([Step(*(t.clone() for t in vars(step).values())) for step in seen], sigmas.clone(), latents.clone())


def policy_of(model):
    return create_policy(model, Recipe(rank=2, targets="all linear layers"))


def answers(model, kind: str, guidance: float, host: Sampled, prompts=None, **options) -> list[torch.Tensor]:
    """The reference policy's answers to the same questions."""
    prompts, found = prompts or prompts_for(kind), []
    with open_policy(policy_of(model)) as net:
        for step in host.steps:
            torch.set_rng_state(step.random)
            found.append(net.denoise(step.x.clone(), step.sigma, prompts, [0] * len(step.x), guidance, None,
                                     schedule=host.sigmas, **options))
    return found


def difference(found: list[torch.Tensor], host: Sampled) -> float:
    """The largest, relative to the largest value of the step; not a number only where both are not."""
    worst = 0.0
    for ours, step in zip(found, host.steps, strict=True):
        assert ours.shape == step.denoised.shape
        scale = step.denoised.abs().max().clamp_min(1e-9)
        worst = max(worst, float(((ours - step.denoised).abs().max() / scale).nan_to_num(nan=float("inf"))))
    return worst
