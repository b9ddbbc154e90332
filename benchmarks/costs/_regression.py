"""Updates of reward-weighted regression on images with rewards at random: what two benchmarks time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tools import pack


def regression(
    made: Any, texts: Any, latents: torch.Tensor, index: torch.Tensor, batch: int, updates: int
) -> Callable[[], None]:
    """made: the policy; latents: [B, C, H, W]; index: [B] the prompt of each; batch: images at once."""
    rwr, count = pack.module("trainers.rwr"), len(index)
    sigmas = pack.module("trainers.policy.levels").sigmas_of(made.model.get_model_object("model_sampling"), "simple", 20)
    rollout = pack.module("trainers.sampling.rollout").Rollout(
        latents=latents, images=torch.zeros(count, 8, 8, 3), prompts=texts, index=index, seeds=torch.arange(count),
        guidance=1.0, sigmas=sigmas, trajectory=None, batch_size=batch)  # fmt: skip
    rewards = torch.randn(count, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    feedback = pack.module("trainers.feedback.advantages").Advantages(
        values=rewards, used=torch.ones(count, dtype=torch.bool), groups=index, stats={}, memory=None,
        rewards=rewards)  # fmt: skip
    settings, optimizer = (
        rwr.RWR(among="all images", levels=1),
        pack.module("trainers.engine.update").Optimizer(updates=updates),
    )

    def steps() -> None:
        rwr.train_rwr(made, rollout, feedback, settings, optimizer)

    return steps
