"""DDPO, arXiv 2305.13301 (importance-sampling form), which is PPO's clipped loss (arXiv 1707.06347) per denoising step.

    ratio = exp(log_prob - old_log_prob)
    loss  = mean_i max(-A_i ratio_i, -A_i clip(ratio_i, 1 - c, 1 + c))

Every (sample, step) pair is one row i; ratios are per step, never a product over steps. With one optimizer step per
rollout every ratio is 1 and the gradient is REINFORCE's, -A grad log_prob: that is DDPO-SF, no other code needed.
c is 1e-4 because log-probabilities are means over the latent's elements. As the official code
(kvablack/ddpo-pytorch); advantages arrive already normalised and clamped (trainers/feedback/advantages.py).
"""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class PolicyLoss(NamedTuple):
    """loss: scalar with gradient. Detached: ratio [B]; clip_fraction, approx_kl = mean (log-ratio)^2 / 2: scalars."""

    loss: Tensor
    ratio: Tensor
    clip_fraction: Tensor
    approx_kl: Tensor


def clipped_objective(log_ratio: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """[B] -> [B]: max(-A ratio, -A clip(ratio)), the pessimistic one of the two."""
    ratio = log_ratio.exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range))


def ppo_clip_loss(log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, clip_range: float = 1e-4) -> PolicyLoss:
    """All [B]; gradient through log_prob only. A plain batch mean: micro-batches weighted by size give the same."""
    log_ratio = log_prob - old_log_prob.detach()
    loss = clipped_objective(log_ratio, advantages, clip_range).mean()
    log_ratio = log_ratio.detach()
    ratio = log_ratio.exp()
    outside = (ratio - 1).abs() > clip_range
    return PolicyLoss(loss, ratio, outside.to(ratio.dtype).mean(), 0.5 * log_ratio.square().mean())
