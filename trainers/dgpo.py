"""DGPO (arXiv:2510.08425): the better part of a prompt's images is preferred to the worse part."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from .engine.limits import ABOVE_0, FROM_0, FROM_0_TO_1, FROM_1
from .engine.renoise import Renoised, noised, sampled_levels
from .engine.update import Optimizer, numbers, update
from .feedback.advantages import Advantages
from .losses.dgpo import dgpo_loss, gate, group_weights
from .policy.value import Policy
from .sampling.rollout import Rollout


@dataclass(frozen=True)
class DGPO:
    """DGPO (arXiv:2510.08425). beta: sharpness of the group preference; clip_range: gate, 0 is off.

    noisiest: the share of the sampler's levels, from the first on, at which images are learned; reference_guidance: the
    guidance scale at which the reference is asked, in the score and in the KL. The policy is asked without guidance, so a
    guided reference (4.5 in the official run that samples without) teaches it to do without, too.
    """

    LIMITS: ClassVar[dict] = {"beta": ABOVE_0, "clip_range": FROM_0, "kl_weight": FROM_0, "levels": FROM_1,
                              "noisiest": FROM_0_TO_1, "reference_guidance": FROM_0}
    beta: float = 100.0
    clip_range: float = 1e-3
    kl_weight: float = 1e-3
    levels: int = 4
    noisiest: float = 0.7
    reference_guidance: float = 1.0


def train_dgpo(policy: Policy, rollout: Rollout, advantages: Advantages, settings: DGPO, optimizer: Optimizer,
               progress: Callable | None = None) -> Policy:
    """A DGPO step: whole groups share noise and level. Evaluations per image and level: 1 with gradient, 1 reference,
    and 1 of the policy before this step where the gate is on and an optimizer step was made since."""
    count = max(1, round(settings.noisiest * (len(rollout.sigmas) - 1)))
    steps = noised(rollout, advantages.used, settings.levels, optimizer.updates, rollout.batch_size, by_group=True,
                   grid=sampled_levels(rollout)[:count])
    before = rollout.sampled_by(policy.bank)

    def evaluate(net, bank, micro):
        renoised = Renoised(net, rollout, micro)
        x0, reference = renoised.ask(bank), renoised.ask_quietly(None, settings.reference_guidance)
        error, advantage = renoised.error(x0), renoised.of(advantages.values)
        weights = group_weights(error, renoised.error(reference), advantage,
                                rollout.index[micro.rows], settings.beta)
        gated = None
        if settings.clip_range and (rollout.late or not micro.first):
            old = renoised.error(renoised.ask_quietly(net.anchor(before)))
            gated = gate(error, old, advantage, settings.clip_range)
        out = dgpo_loss(error, advantage, weights, gated, renoised.distance(x0, reference), settings.kl_weight)
        return out.loss, numbers(policy_loss=out.policy_loss, kl=out.kl, clip_fraction=out.gated_fraction)

    return update(policy, steps, evaluate, optimizer, progress=progress)
