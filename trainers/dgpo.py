"""DGPO (arXiv:2510.08425): the better part of a prompt's images is preferred to the worse part."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from .engine.limits import ABOVE_0, FROM_0, FROM_1
from .engine.renoise import Renoised, noised
from .engine.update import Optimizer, numbers, update
from .feedback.advantages import Advantages
from .losses.dgpo import dgpo_loss, gate, group_weights
from .policy.value import Policy
from .sampling.rollout import Rollout


@dataclass(frozen=True)
class DGPO:
    """DGPO (arXiv:2510.08425). beta: sharpness of the group preference; clip_range: gate, 0 is off."""

    LIMITS: ClassVar[dict] = {"beta": ABOVE_0, "clip_range": FROM_0, "kl_weight": FROM_0, "levels": FROM_1}
    beta: float = 100.0
    clip_range: float = 1e-3
    kl_weight: float = 1e-3
    levels: int = 4


def train_dgpo(policy: Policy, rollout: Rollout, advantages: Advantages, settings: DGPO, optimizer: Optimizer,
               progress: Callable | None = None) -> Policy:
    """A DGPO step: whole groups share noise and level. Evaluations per image and level: 1 with gradient, 1 reference,
    and 1 of the policy before this step where the gate is on and an optimizer step was made since."""
    steps = noised(rollout, advantages.used, settings.levels, optimizer.updates, rollout.batch_size, by_group=True)
    before = policy.bank

    def evaluate(net, bank, micro):
        renoised = Renoised(net, rollout, micro)
        x0, reference = renoised.ask(bank), renoised.ask_quietly(None)
        error, advantage = renoised.error(x0), renoised.of(advantages.values)
        weights = group_weights(error, renoised.error(reference), advantage,
                                rollout.index[micro.rows].to(error.device), settings.beta)
        gated = None
        if settings.clip_range and not micro.first:
            old = renoised.error(renoised.ask_quietly(net.anchor(before)))
            gated = gate(error, old, advantage, settings.clip_range)
        out = dgpo_loss(error, advantage, weights, gated, renoised.distance(x0, reference), settings.kl_weight)
        return out.loss, numbers(policy_loss=out.policy_loss, kl=out.kl, clip_fraction=out.gated_fraction)

    return update(policy, steps, evaluate, optimizer, progress=progress)
