"""DPOK (arXiv:2305.16381): a policy gradient with an exact pull to the reference at every step."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from .engine.cost import Train, Work
from .engine.limits import ABOVE_0, FROM_0, INSIDE_0_1
from .engine.replay import train_on_trajectory
from .engine.update import Optimizer
from .feedback.advantages import Advantages
from .judges.value_baseline import VALUE, value_baseline
from .losses.dpok import dpok_loss
from .policy.value import Policy
from .sampling.rollout import Rollout


@dataclass(frozen=True)
class DPOK:
    """Settings of DPOK (arXiv:2305.16381): weights of the reward term and of the KL to the reference.

    value_steps: optimizer steps in which the value baseline learns from each rollout, see value_baseline.py; the reward
    minus what it expected then takes the place of the advantages. 0: no baseline, the advantages as they come.
    """

    LIMITS: ClassVar[dict] = {"clip_range": INSIDE_0_1, "reward_weight": ABOVE_0, "kl_weight": FROM_0,
                              "value_steps": FROM_0}
    clip_range: float = 1e-4
    reward_weight: float = 100.0
    kl_weight: float = 0.01
    value_steps: int = 0


def train_dpok(policy: Policy, rollout: Rollout, advantages: Advantages, settings: DPOK, optimizer: Optimizer,
               progress: Callable | None = None) -> Policy:
    """A DPOK step on this rollout, its advantages or those of the value baseline."""

    def trained(advantages: Advantages, each_step: torch.Tensor | None = None) -> Policy:
        return train_on_trajectory(
            policy, rollout, advantages, optimizer,
            lambda now: dpok_loss(now.log_prob, now.old_log_prob, now.advantage, settings.clip_range, now.kl,
                                  settings.kl_weight, settings.reward_weight),
            beta=settings.kl_weight, watch_kl=True, progress=progress, each_step=each_step)

    if not settings.value_steps:
        return trained(advantages)
    rewards = advantages.rewards
    expected, value, report, cost = value_baseline(policy, rollout, rewards, settings.value_steps)
    new = trained(replace(advantages, used=rewards.isfinite()), rewards[:, None] - expected)
    report["update_evaluations"] = new.metrics["update_evaluations"] + cost
    return replace(new, anchors={**new.anchors, VALUE: value}, metrics=new.metrics | report)


def dpok_cost(settings: DPOK, work: Work) -> Train:
    """The value baseline asks the first part of the network, without guidance, for each image and step."""
    gradient, further = work.replayed(settings.kl_weight > 0, True)
    return gradient, further + (work.images * work.random if settings.value_steps else 0)
