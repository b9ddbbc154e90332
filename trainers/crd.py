"""CRD (arXiv:2603.14128): what the policy prefers is brought near to what the reward prefers, among the images of a prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from .engine.limits import ABOVE_0, FROM_0, FROM_0_TO_1, FROM_1
from .engine.renoise import ADVANTAGE_CLIP, Renoised, noised, with_anchor
from .engine.update import Optimizer, numbers, update
from .feedback.advantages import Advantages
from .losses.crd import FORMS, adaptive_error, centred, crd_loss, kl_weights, pools
from .losses.nft import optimality
from .policy.uploads import uploaded
from .policy.value import Policy
from .sampling.rollout import Rollout

OLD = "old"  # the policy that samples, among the anchors; see Policy.chosen
RIVAL = "rival"  # the copy against which the implicit reward is measured


@dataclass(frozen=True)
class CRD:
    """CRD (arXiv:2603.14128). beta: how soon the implicit reward is as large as the true one; form: how the two are compared;
    temperature: of the weights of the means, 0: all images alike; kl_weight: pull to the reference, which is asked with
    reference_guidance, the policy without; rival_*: how slowly the copy follows that the implicit reward is measured against,
    old_*: the same of the policy that samples, after old_start optimizer steps, see copy_decay."""

    LIMITS: ClassVar[dict] = {
        "beta": ABOVE_0,
        "temperature": FROM_0,
        "kl_weight": FROM_0,
        "reference_guidance": FROM_0,
        "levels": FROM_1,
        "rival_start": FROM_0_TO_1,
        "rival_rate": FROM_0,
        "rival_ceiling": FROM_0_TO_1,
        "old_start": FROM_0,
        "old_rate": FROM_0,
        "old_ceiling": FROM_0_TO_1,
    }
    CHOICES: ClassVar[dict] = {"form": FORMS}
    beta: float = 1.0
    form: str = FORMS[0]
    temperature: float = 0.0
    kl_weight: float = 0.1
    reference_guidance: float = 1.0
    levels: int = 4
    rival_start: float = 0.25
    rival_rate: float = 0.005
    rival_ceiling: float = 0.999
    old_start: int = 75
    old_rate: float = 0.0075
    old_ceiling: float = 0.999


def train_crd(
    policy: Policy,
    rollout: Rollout,
    advantages: Advantages,
    settings: CRD,
    optimizer: Optimizer,
    progress: Callable | None = None,
) -> Policy:
    """A CRD step: whole groups share noise and level. Evaluations per image and level: 1 with gradient, 1 of the copy that the
    implicit reward is measured against where it differs, 1 of the reference (2 with guidance) where kl_weight is above 0."""
    steps = noised(rollout, advantages.used, settings.levels, optimizer.updates, rollout.batch_size, by_group=True)
    rival = policy.anchors.get(RIVAL, policy.bank)

    def evaluate(net, bank, micro):
        renoised = Renoised(net, rollout, micro)
        x0 = renoised.ask(bank)
        error = adaptive_error(renoised.prediction(x0), renoised.target)
        before = error.detach()
        if RIVAL in policy.anchors or not micro.first:
            before = adaptive_error(renoised.prediction(renoised.ask_quietly(net.anchor(rival))), renoised.target)
        external = optimality(renoised.of(advantages.values), ADVANTAGE_CLIP)
        groups = uploaded(rollout.index[micro.rows], net.device)
        pairs = [
            (centred(before - error, groups, pool), centred(external, groups, pool))
            for pool in pools(external, groups, settings.temperature)
        ]
        kl = renoised.distance(x0, renoised.ask_quietly(None, settings.reference_guidance)) if settings.kl_weight else None
        held = None if kl is None else kl_weights(external, settings.kl_weight) * kl
        out = crd_loss(pairs, settings.beta, ADVANTAGE_CLIP, settings.form, held)
        return out.loss, numbers(policy_loss=out.policy_loss, **({} if kl is None else {"kl": kl.mean()}))

    new = update(policy, steps, evaluate, optimizer, progress=progress)
    new = with_anchor(
        new, RIVAL, rival, copy_decay(new.step, settings.rival_start, settings.rival_rate, settings.rival_ceiling)
    )
    decay = copy_decay(new.step, 0.0, settings.old_rate, settings.old_ceiling, settings.old_start)
    return with_anchor(new, OLD, policy.anchors.get(OLD, policy.bank), decay)


def copy_decay(step: int, first: float, rate: float, ceiling: float, wait: int = 0) -> float:
    """d of copy <- d copy + (1 - d) policy after ``step`` optimizer steps. Official: (0.25, 0.005, 0.999) of the copy against
    which the implicit reward is measured, (0, 0.0075, 0.999, 75) of the one that samples; 0 is a copy of the policy."""
    return min(first + rate * max(0, step - wait), ceiling)
