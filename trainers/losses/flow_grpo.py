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

import torch
from torch import Tensor

from .penalty import add_penalty


class KLPolicyLoss(NamedTuple):
    """loss: scalar with gradient. Detached: policy_loss, kl, clip_fraction, approx_kl scalars; ratio [B]."""

    loss: Tensor
    policy_loss: Tensor
    kl: Tensor
    ratio: Tensor
    clip_fraction: Tensor
    approx_kl: Tensor


def flow_grpo_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    clip_range: float = 1e-4,
    kl: Tensor | None = None,
    beta: float = 0.0,
    weight: Tensor | float = 1.0,
) -> KLPolicyLoss:
    """All tensors [B]; gradient through log_prob and kl. beta 0 needs no kl, hence no reference evaluation.

    A plain batch mean: micro-batches weighted by their size give the same. weight: of the policy's part, see ``noise_weight``.
    """
    log_ratio = log_prob - old_log_prob.detach()
    ratio = log_ratio.exp()
    each = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range))
    return with_kl((weight * each).mean(), log_ratio, clip_range, kl, beta)


def noise_weight(std: Tensor, usual: Tensor) -> Tensor:
    """[B]: TempFlow-GRPO's weight of a step (arXiv 2508.04324), which is its noise over the mean of the schedule's steps. std:
    [B]; usual: of every step that may be random. The official 2.25 std is this for SD3's 10 steps at noise 0.7."""
    return std / usual.mean()


def gradient_weight(std: Tensor, carried: Tensor, pool: Tensor) -> Tensor:
    """[B]: Flash-GRPO's weight of a step (arXiv 2605.15980), which makes the gradients of all steps alike: k over the mean of the
    ``pool``'s k, of every step that may be drawn. k = std / carried: [B], with carried = |d mean / d velocity|, by which the
    gradient of the likelihood of a step grows. The official code divides by the batch's mean instead, so that the weight of an
    image hangs on its company, and takes k from a table for one schedule."""
    return std / carried / pool.mean()


def with_kl(policy: Tensor, log_ratio: Tensor, clip_range: float, kl: Tensor | None, beta: float) -> KLPolicyLoss:
    """policy (scalar) + beta * mean(kl), with the metrics of the ratio [B]; kl: [B] or None. With beta 0 it is only reported."""
    loss, mean_kl = add_penalty(policy, "kl", kl, beta)
    log_ratio = log_ratio.detach()
    ratio = log_ratio.exp()
    outside = ((ratio - 1).abs() > clip_range).to(ratio.dtype).mean()
    return KLPolicyLoss(loss, policy.detach(), mean_kl, ratio, outside, 0.5 * log_ratio.square().mean())
