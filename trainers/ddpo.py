"""DDPO (arXiv:2305.13301): the policy gradient of the denoising steps, with importance sampling."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from .engine.limits import INSIDE_0_1
from .engine.replay import train_on_trajectory
from .engine.update import Optimizer
from .feedback.advantages import Advantages
from .losses.ddpo import ppo_clip_loss
from .policy.value import Policy
from .sampling.rollout import Rollout


@dataclass(frozen=True)
class DDPO:
    """Settings of DDPO-IS (arXiv:2305.13301); one update per rollout makes it DDPO-SF. See FlowGRPO for the names."""

    LIMITS: ClassVar[dict] = {"clip_range": INSIDE_0_1}
    clip_range: float = 1e-4
    watch_kl: bool = True


def train_ddpo(policy: Policy, rollout: Rollout, advantages: Advantages, settings: DDPO, optimizer: Optimizer,
               progress: Callable | None = None) -> Policy:
    """A DDPO-IS step on this rollout."""
    return train_on_trajectory(policy, rollout, advantages, optimizer,
                  lambda now: ppo_clip_loss(now.log_prob, now.old_log_prob, now.advantage, settings.clip_range),
                  beta=0.0, watch_kl=settings.watch_kl, progress=progress)
