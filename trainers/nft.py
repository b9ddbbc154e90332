"""DiffusionNFT (arXiv:2509.16117): towards better images and away from worse ones, without a likelihood."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from .engine.limits import ABOVE_0, FROM_0, FROM_0_TO_1, FROM_1
from .engine.renoise import ADVANTAGE_CLIP, Renoised, noised, with_anchor
from .engine.update import Optimizer, numbers, update
from .feedback.advantages import Advantages
from .losses.nft import nft_loss, old_policy_decay
from .policy.value import Policy
from .sampling.rollout import Rollout

OLD = "old"  # the policy that samples, among the anchors


@dataclass(frozen=True)
class NFT:
    """DiffusionNFT (arXiv:2509.16117). beta: how far the mirrored policies lie apart; levels: noise levels per image;
    kl_weight: pull to the reference; old_*: how slowly the policy that samples follows, see old_policy_decay."""

    LIMITS: ClassVar[dict] = {"beta": ABOVE_0, "levels": FROM_1, "kl_weight": FROM_0, "old_start": FROM_0,
                              "old_rate": FROM_0, "old_ceiling": FROM_0_TO_1}
    beta: float = 1.0
    levels: int = 4
    kl_weight: float = 1e-4
    old_start: int = 0
    old_rate: float = 1e-3
    old_ceiling: float = 0.5


def train_nft(policy: Policy, rollout: Rollout, advantages: Advantages, settings: NFT, optimizer: Optimizer,
              progress: Callable | None = None) -> Policy:
    """A DiffusionNFT step. Evaluations per image and level: 1 with gradient, 1 for the old policy where it differs from
    the one in training, 1 for the reference where kl_weight is above 0."""
    steps = noised(rollout, advantages.used, settings.levels, optimizer.updates, rollout.batch_size)
    behaviour = policy.chosen("behaviour")
    sampler = rollout.sampled_by(behaviour)

    def evaluate(net, bank, micro):
        renoised = Renoised(net, rollout, micro)
        x0 = renoised.ask(bank)
        on_policy = micro.first and OLD not in policy.anchors and not rollout.late
        old = x0.detach() if on_policy else renoised.ask_quietly(net.anchor(sampler))
        kl = renoised.distance(x0, renoised.ask_quietly(None)) if settings.kl_weight else None
        out = nft_loss(x0, old, renoised.data, renoised.of(advantages.values), settings.beta, ADVANTAGE_CLIP, kl,
                       settings.kl_weight)
        return out.loss, numbers(policy_loss=out.policy_loss, **({"kl": out.kl} if settings.kl_weight else {}))

    new = update(policy, steps, evaluate, optimizer, progress=progress)
    decay = old_policy_decay(policy.iteration, settings.old_start, settings.old_rate, settings.old_ceiling)
    return with_anchor(new, OLD, behaviour, decay)
