"""Flow-GRPO, arXiv 2505.05470: DDPO's clipped loss on the flow's SDE steps plus a KL to the reference.

    loss = mean_i max(-A_i ratio_i, -A_i clip(ratio_i, 1 - c, 1 + c)) + beta * mean_i KL_i

KL_i [B] is the exact Gaussian KL of the step, (mean - mean_ref)^2 / (2 s^2 Delta) averaged over dimensions
(transitions.gaussian_kl). The official SD3, Flux and Qwen scripts divide by 2 s^2 only, forgetting Delta (its authors
agree, yifan123/flow_grpo issue 22), so a beta of theirs means beta * Delta here, a step-dependent weight: we keep the
exact one, whose meaning does not change with the number of steps. Under guidance its first release lets no gradient into
the branch without prompt; ours goes into both, as its later ones' and DDPO's does: both make the picture.
DanceGRPO (2505.07818), MixGRPO (2507.21802), CPS (2509.05952) and Flow-GRPO-Fast are this same loss with another
transition, window of steps and beta 0.
"""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .ddpo import PolicyLoss, ppo_clip_loss
from .penalty import add_penalty


class KLPolicyLoss(NamedTuple):
    """loss: scalar with gradient. Detached: policy_loss, kl, clip_fraction, approx_kl scalars; ratio [B]."""

    loss: Tensor
    policy_loss: Tensor
    kl: Tensor
    ratio: Tensor
    clip_fraction: Tensor
    approx_kl: Tensor


def with_kl(policy: PolicyLoss, kl: Tensor | None, beta: float) -> KLPolicyLoss:
    """policy.loss + beta * mean(kl), kl: [B] or None. With beta 0 a kl is only reported."""
    loss, mean_kl = add_penalty(policy.loss, "kl", kl, beta)
    return KLPolicyLoss(loss, policy.loss.detach(), mean_kl, policy.ratio, policy.clip_fraction, policy.approx_kl)


def flow_grpo_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    clip_range: float = 1e-4,
    kl: Tensor | None = None,
    beta: float = 0.0,
) -> KLPolicyLoss:
    """All tensors [B]; gradient through log_prob and kl. beta 0 needs no kl, hence no reference evaluation.

    A plain batch mean: micro-batches weighted by their size give the same.
    """
    return with_kl(ppo_clip_loss(log_prob, old_log_prob, advantages, clip_range), kl, beta)
