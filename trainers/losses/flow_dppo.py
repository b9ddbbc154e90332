"""Flow-DPPO, arXiv 2606.11025: Flow-GRPO with an exact trust region in place of the clipped ratio.

    keep_i = not (KL_i >= threshold and (ratio_i > 1 and A_i > 0 or ratio_i < 1 and A_i < 0))
    loss   = mean_i(-A_i ratio_i keep_i)

KL_i [B] is the Gaussian KL of the step to the policy before this batch's updates (transitions.gaussian_kl of mean and
rollout mean; mean over dimensions, threshold 1e-5). A step is dropped only when it is already too far and would go
further; dropped steps still count in the mean. Before the first update KL is 0 and nothing is dropped.
Official code: Tencent-Hunyuan/UniRL, the same but for its std at sigma 1 (it clamps sigma to 0.99), which is the
transition's affair.
"""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class FlowDPPOLoss(NamedTuple):
    """loss: scalar with gradient. Detached: ratio [B]; kl, dropped_fraction, approx_kl: scalars."""

    loss: Tensor
    ratio: Tensor
    kl: Tensor
    dropped_fraction: Tensor
    approx_kl: Tensor


def flow_dppo_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    kl_old: Tensor,
    threshold: float = 1e-5,
    weight: Tensor | float = 1.0,
) -> FlowDPPOLoss:
    """All tensors [B]; gradient through log_prob only. A plain batch mean; weight: see flow_grpo.noise_weight."""
    log_ratio = log_prob - old_log_prob.detach()
    ratio, kl = log_ratio.exp(), kl_old.detach()
    outward = (log_ratio > 0) & (advantages > 0) | (log_ratio < 0) & (advantages < 0)
    dropped = ((kl >= threshold) & outward).to(ratio.dtype)
    loss = (-weight * advantages * ratio * (1 - dropped)).mean()
    return FlowDPPOLoss(loss, ratio.detach(), kl.mean(), dropped.mean(), 0.5 * log_ratio.detach().square().mean())
