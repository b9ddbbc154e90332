"""Advantage weighted matching, arXiv 2509.25050: PPO with the denoising error in place of the log-likelihood.

    log_prob_i = -weighted error_i,   ratio_i = exp(log_prob_i - old_log_prob_i)
    loss = mean_i max(-A_i ratio_i, -A_i clip(ratio_i)) + ema_beta * mean_i KL(ema)_i + beta * mean_i KL(ref)_i

At ratio 1 the gradient is the pretraining loss's, weighted by the advantage. The official default weighting "ghuber"
makes it independent of the error's size; its clip range 1 hardly ever acts, stability comes from the KL to a quickly
following EMA (ema_beta 1). KL_i [B]: mean_d (v - v_other)^2. Advantages: clamped to +-5, then divided by 5.
t in [0, 1]: the flow's sigma; for eps and v models sigma / (1 + sigma), the flow time of equal signal-to-noise.
As the official code (scxue/advantage_weighted_matching).
"""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .ddpo import ppo_clip_loss
from .penalty import add_penalty

WEIGHTINGS = ("ghuber", "uniform", "t", "t squared", "huber")


class AWMLoss(NamedTuple):
    """loss: scalar with gradient. Detached: policy_loss, ema_kl, kl, clip_fraction scalars; ratio [B]."""

    loss: Tensor
    policy_loss: Tensor
    ema_kl: Tensor
    kl: Tensor
    ratio: Tensor
    clip_fraction: Tensor


def matching_log_prob(error: Tensor, t: Tensor, weighting: str = "ghuber", power: float = 0.25) -> Tensor:
    """error [B] (error.squared_error of the prediction), t [B] -> pseudo log-probability [B]."""
    if weighting == "uniform":
        return -error
    if weighting == "t":
        return -error * t
    if weighting == "t squared":
        return -error * t * t
    if weighting == "huber":
        return -((error + 1e-10).sqrt() - 1e-5) * t
    if weighting == "ghuber":
        # the offset keeps the gradient finite at error 0
        return -((error + 1e-10) ** power - 1e-10**power) * t / power
    raise ValueError(f"weighting: unknown {weighting!r}; use one of {', '.join(WEIGHTINGS)}")


def awm_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    clip_range: float = 1.0,
    ema_kl: Tensor | None = None,
    ema_beta: float = 0.0,
    kl: Tensor | None = None,
    beta: float = 0.0,
) -> AWMLoss:
    """All tensors [B], one row per (image, timestep); gradient through log_prob and the KLs. A plain batch mean.

    The official "sum_first" averages log_prob and old_log_prob over an image's timesteps before calling this.
    """
    policy = ppo_clip_loss(log_prob, old_log_prob, advantages, clip_range)
    loss, mean_ema_kl = add_penalty(policy.loss, "ema_kl", ema_kl, ema_beta)
    loss, mean_kl = add_penalty(loss, "kl", kl, beta)
    return AWMLoss(loss, policy.loss.detach(), mean_ema_kl, mean_kl, policy.ratio, policy.clip_fraction)
