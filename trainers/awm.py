"""Advantage weighted matching (arXiv:2509.25050): the pretraining loss, weighted by how good an image is."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from .engine.limits import ABOVE_0, BELOW_1, FROM_0, FROM_1
from .engine.renoise import ADVANTAGE_CLIP, Renoised, noised, sampled_levels, with_anchor, without_pure_noise
from .engine.update import Optimizer, numbers, update
from .feedback.advantages import Advantages
from .losses.awm import WEIGHTINGS, awm_loss, matching_log_prob
from .policy.value import Policy
from .sampling.rollout import Rollout

FOLLOWER = "follower"  # the copy that the policy is held near, among the anchors


@dataclass(frozen=True)
class AWM:
    """Advantage weighted matching (arXiv:2509.25050). ema_beta: pull to a copy that follows within a few iterations;
    beta: pull to the reference."""

    LIMITS: ClassVar[dict] = {"clip_range": ABOVE_0, "ema_beta": FROM_0, "beta": FROM_0, "levels": FROM_1,
                              "ema_ceiling": BELOW_1}
    CHOICES: ClassVar[dict] = {"weighting": WEIGHTINGS}
    weighting: str = "ghuber"
    clip_range: float = 1.0
    ema_beta: float = 1.0
    beta: float = 1e-3
    levels: int = 6
    ema_ceiling: float = 0.3


def train_awm(policy: Policy, rollout: Rollout, advantages: Advantages, settings: AWM, optimizer: Optimizer,
              progress: Callable | None = None) -> Policy:
    """An AWM step. The copy that ema_beta pulls to follows once per train step, after its updates.

    The sampler's first level takes no part, as in the official code: there every image looks alike, and the error, which
    nothing can lower, would make more than a third of the gradient.
    """
    steps = noised(rollout, advantages.used, settings.levels, optimizer.updates, rollout.batch_size,
                   grid=without_pure_noise(sampled_levels(rollout)))
    before, follower = rollout.sampled_by(policy.bank), policy.anchors.get(FOLLOWER)

    def evaluate(net, bank, micro):
        renoised = Renoised(net, rollout, micro)
        x0 = renoised.ask(bank)
        t = renoised.sigma if net.path.name == "flow" else renoised.sigma / (1 + renoised.sigma)
        log_p = matching_log_prob(renoised.error(x0), t, settings.weighting)
        old = log_p.detach() if micro.first and not rollout.late else matching_log_prob(
            renoised.error(renoised.ask_quietly(net.anchor(before))), t, settings.weighting)
        pulls = {}
        if settings.ema_beta and follower is not None:
            pulls |= {"ema_kl": renoised.distance(x0, renoised.ask_quietly(net.anchor(follower)))}
        if settings.beta:
            pulls |= {"kl": renoised.distance(x0, renoised.ask_quietly(None))}
        out = awm_loss(log_p, old, renoised.of(advantages.values) / ADVANTAGE_CLIP, settings.clip_range,
                       ema_beta=settings.ema_beta if "ema_kl" in pulls else 0.0, beta=settings.beta, **pulls)
        return out.loss, numbers(policy_loss=out.policy_loss, clip_fraction=out.clip_fraction,
                                 **({"kl": out.kl} if settings.beta else {}))

    new = update(policy, steps, evaluate, optimizer, progress=progress)
    return with_anchor(new, FOLLOWER, follower or policy.bank, min(settings.ema_ceiling, 1e-3 * policy.iteration))
