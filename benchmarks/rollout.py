"""A rollout against a bare denoising loop over the same network."""
from __future__ import annotations

from tools import pack

from . import Measure
from ._demo_policy import IMAGES, STEPS, Bare, demo, ratio


def measure() -> list[Measure]:
    policy, prompts, vae, sampling, _ = demo()
    rollout = pack.module("trainers.rollout").rollout
    import torch
    run = rollout(policy, prompts, vae, sampling, 0)
    rows = [slice(at, at + sampling.batch_size) for at in range(0, IMAGES, sampling.batch_size)]

    def bare_loop():
        with Bare(policy, prompts, run.index) as network, torch.no_grad():
            for part in rows:
                x = torch.randn(sampling.batch_size, 3, 24, 24)
                for sigma, following in zip(run.sigmas, run.sigmas[1:]):
                    x0 = network(x, sigma.expand(len(x)), part)
                    x = x0 + (x - x0) * (following / sigma)

    times, ours, bare = ratio(lambda: rollout(policy, prompts, vae, sampling, 0), bare_loop)
    return [Measure("rollout / bare denoising loop", times, "x", 1.10,
                    f"{ours:.2f} s against {bare:.2f} s for {IMAGES} images of {STEPS} steps")]
