"""The demo world's flow model as a policy, for the benchmarks that time training against the bare network."""
from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from tools import pack

IMAGES, STEPS, NOISY = 64, 8, 4


def demo():
    """-> (policy, encoded prompts, VAE, sampling settings, reward)."""
    models = pack.module("toy.models", host=True)
    prompts = pack.module("nodes.prompts").encode_prompts(
        pack.module("toy.prompts").prompt_set(held_out=False), models.load_clip(), "")
    policies = pack.module("trainers.policy")
    policy = policies.create_policy(models.load_model("flow"), policies.Recipe(rank=16))
    sampling = pack.module("trainers.sampling").Sampling(
        steps=STEPS, width=24, height=24, prompts_per_iteration=8, images_per_prompt=8, batch_size=IMAGES // 2,
        noisy_steps=NOISY)
    return policy, prompts, models.load_vae(), sampling, pack.module("toy.verifier").ToyVerifier("dense")


def ratio(ours: Callable[[], object], bare: Callable[[], object], rounds: int = 7) -> tuple[float, float, float]:
    """(median of the pairwise ratios, median seconds of ours, of bare); run in turn, so that both see the same machine."""
    ours(), bare()
    pairs = [(seconds(ours), seconds(bare)) for _ in range(rounds)]
    return (statistics.median(a / b for a, b in pairs), statistics.median(a for a, _ in pairs),
            statistics.median(b for _, b in pairs))


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


class Bare:
    """The same network with the same bank laid over it, called directly."""

    def __init__(self, policy, prompts, index) -> None:
        import comfy.model_management
        import torch
        bank = pack.module("trainers.policy.bank")
        self.model = policy.model.model
        comfy.model_management.load_models_gpu([policy.model])
        layers = bank.trainable_layers(self.model.diffusion_model, policy.recipe)
        self.overlay = bank.Overlay(self.model.diffusion_model, layers, policy.recipe.scale)
        self.overlay.inject()
        self.overlay.active = {k: v.clone().requires_grad_(True) for k, v in policy.bank.items()}
        rows = [prompts.positive[int(i)][0] for i in index]
        self.context = torch.cat([row[0] for row in rows])
        self.pooled = torch.cat([row[1]["pooled_output"] for row in rows])

    def __enter__(self) -> Bare:
        return self

    def __exit__(self, *_) -> None:
        self.overlay.eject()

    def __call__(self, x, sigma, rows):
        return self.model.apply_model(x, sigma, c_crossattn=self.context[rows], y=self.pooled[rows])
