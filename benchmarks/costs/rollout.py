"""A rollout with its trajectory against a bare Euler loop over the same network, and the decoding of its images."""
from __future__ import annotations

import torch

from tools import pack

from . import Measure
from ._world import compare, world


def measure() -> list[Measure]:
    here = world()
    rollouts = pack.module("trainers.sampling.rollout")
    made = rollouts.rollout(here.policy, here.prompts, here.vae, here.sampling)
    size = here.sampling.batch_size
    batches = [here.arguments(made.index[at:at + size]) for at in range(0, len(made.index), size)]

    @torch.no_grad()
    def bare() -> None:
        done = []
        for arguments in batches:
            x = torch.randn(size, 3, 24, 24)
            for sigma, following in zip(made.sigmas, made.sigmas[1:]):
                x0 = here.bare.apply_model(x, sigma.expand(size), **arguments)
                x = x + (x - x0) / sigma * (following - sigma)
            done.append(x)
        here.vae.decode(torch.cat(done))

    ratio, ours, least = compare(lambda: rollouts.rollout(here.policy, here.prompts, here.vae, here.sampling), bare)
    return [Measure("rollout against a bare denoising loop", ratio, "x", 1.10,
                    f"{len(made.index)} images, {here.sampling.steps} steps: {ours:.2f} s against {least:.2f} s")]
