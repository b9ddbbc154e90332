"""Reward-weighted regression (arXiv:2305.13301): fine-tuning on the policy's own images, better ones weighted more."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from .engine.limits import FROM_0, FROM_1
from .engine.renoise import Renoised, noised
from .engine.update import Optimizer, numbers, update
from .feedback.advantages import Advantages
from .losses.rwr import rwr_loss, softmax_weights, sparse_weights
from .policy.value import Policy
from .sampling.rollout import Rollout

AMONG = ("each prompt", "all images", "best tenth only")


@dataclass(frozen=True)
class RWR:
    """Reward-weighted regression (arXiv:2305.13301). sharpness: inverse temperature on the raw reward; among: "each
    prompt", "all images" or "best tenth only"."""

    LIMITS: ClassVar[dict] = {"sharpness": FROM_0, "levels": FROM_1}
    CHOICES: ClassVar[dict] = {"among": AMONG}
    sharpness: float = 5.0
    among: str = AMONG[0]
    levels: int = 4


def train_rwr(policy: Policy, rollout: Rollout, advantages: Advantages, settings: RWR, optimizer: Optimizer,
              progress: Callable | None = None) -> Policy:
    """A step of reward-weighted regression on the rollout's own images."""
    rewards = advantages.rewards
    if settings.among == "each prompt":
        weights = softmax_weights(rewards, settings.sharpness, rollout.index)
    elif settings.among == "all images":
        weights = softmax_weights(rewards, settings.sharpness)
    elif settings.among == "best tenth only":
        weights = sparse_weights(rewards)
    else:
        raise ValueError(f"among: unknown {settings.among!r}; use each prompt, all images or best tenth only")
    used = rewards.isfinite() & (weights > 0)
    # images of no weight are left out, but the loss is a mean over all
    weights = weights * (used.sum() / rewards.isfinite().sum())
    steps = noised(rollout, used, settings.levels, optimizer.updates, rollout.batch_size)

    def evaluate(net, bank, micro):
        renoised = Renoised(net, rollout, micro)
        out = rwr_loss(renoised.error(renoised.ask(bank)), renoised.of(weights))
        return out.loss, numbers(denoising_error=out.error)

    return update(policy, steps, evaluate, optimizer, progress=progress)
