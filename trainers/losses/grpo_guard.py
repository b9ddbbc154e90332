"""GRPO-Guard, arXiv 2510.22319: Flow-GRPO with a ratio whose scale does not depend on the step.

    log_ratio_i = std_i * (log_prob_i - old_log_prob_i + bias_i),   bias_i = mean_d (mean - mean_old)^2 / (2 std_i^2)
    loss        = mean_i max(-A_i ratio_i, -A_i clip(ratio_i, 1 - c, 1 + c)) / Delta_i + beta * mean_i KL_i

std_i is the whole noise of the step (s sqrt(Delta)). Plain log-ratios are noise minus bias_i: always biased below 0,
most at low noise, so the upper clip seldom acts. Here log_ratio_i is exactly mean_d(z * (mean - mean_old)), z being
the noise drawn: of zero mean over z at any step; dividing by Delta makes up for mean differences being proportional
to Delta. c is 2e-6. The official code (zhtmike/flow_grpo) averages bias over the whole batch, by a reduction over
an empty list of dimensions; we take each sample's own, without which the mean over z is not 0 for each sample.
"""
from __future__ import annotations

from torch import Tensor

from .ddpo import clipped_objective
from .flow_grpo import KLPolicyLoss, with_kl


def guard_log_ratio(log_prob: Tensor, old_log_prob: Tensor, mean: Tensor, old_mean: Tensor, std: Tensor) -> Tensor:
    """[B]; log_prob, old_log_prob, std [B] (std above 0); mean, old_mean [B, ...]: of the step, now and at rollout."""
    bias = (mean - old_mean.detach()).square().flatten(1).mean(1) / (2 * std.square())
    return (log_prob - old_log_prob.detach() + bias) * std


def grpo_guard_loss(
    log_ratio: Tensor,
    advantages: Tensor,
    delta: Tensor,
    clip_range: float = 2e-6,
    kl: Tensor | None = None,
    beta: float = 0.0,
) -> KLPolicyLoss:
    """All tensors [B]; log_ratio from guard_log_ratio, delta = sigma - sigma_next. A plain batch mean."""
    loss = (clipped_objective(log_ratio, advantages, clip_range) / delta).mean()
    return with_kl(loss, log_ratio, clip_range, kl, beta)
