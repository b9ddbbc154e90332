"""DiffusionNFT, arXiv 2509.16117: forward-process RL; a positive and a negative policy mirrored about the old one.

    r_i   = clip(A_i / (2 clip) + 1/2, 0, 1)
    x0(+) = beta x0 + (1 - beta) x0_old,     x0(-) = (1 + beta) x0_old - beta x0
    L(+-) = mean_d (x0(+-) - x0_data)^2 / max(1e-5, sg mean_d |x0(+-) - x0_data|)
    loss  = mean_i clip / beta * (r_i L(+)_i + (1 - r_i) L(-)_i) + kl_weight * mean_i KL_i

x0, x0_old [B, ...]: the denoised answers of the policy and of the policy that sampled, at one re-noised state of
x0_data, the sampler's final latent (any sampler, no guidance, no trajectory). The official code mixes velocities;
x0 = x_t - t v is affine in v, so mixing x0 is the same and serves every path. KL_i [B]: official mean_d (v - v_ref)^2.
At x0 = x0_old the gradient is A_i grad mean_d (x0 - x0_data)^2 / weight whatever beta is: advantage-weighted matching.
Not for step-distilled models: it is a denoising loss and blurs them.
"""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .penalty import add_penalty


class NFTLoss(NamedTuple):
    """loss: scalar with gradient. Detached scalars: policy_loss, kl, positive, negative (means of L+ and L-)."""

    loss: Tensor
    policy_loss: Tensor
    kl: Tensor
    positive: Tensor
    negative: Tensor


def optimality(advantages: Tensor, clip: float = 5.0) -> Tensor:
    """r in [0, 1]: the chance that the image counts as good. Advantages beyond +-clip saturate."""
    return (advantages / (2 * clip) + 0.5).clamp(0, 1)


def _adaptive_error(x0: Tensor, data: Tensor) -> Tensor:
    """[B]: squared error over its own size, so that every noise level weighs the same."""
    weight = (x0 - data).detach().abs().flatten(1).mean(1).clamp_min(1e-5)
    return (x0 - data).square().flatten(1).mean(1) / weight


def nft_loss(
    x0: Tensor,
    x0_old: Tensor,
    data: Tensor,
    advantages: Tensor,
    beta: float = 1.0,
    clip: float = 5.0,
    kl: Tensor | None = None,
    kl_weight: float = 0.0,
) -> NFTLoss:
    """x0, x0_old, data [B, ...]; advantages, kl [B]; gradient through x0 and kl. A plain batch mean.

    beta: 1 by default, 0.1 in the official multi-reward runs: smaller learns faster and less stably.
    """
    r, old = optimality(advantages, clip), x0_old.detach()
    positive = _adaptive_error(beta * x0 + (1 - beta) * old, data)
    negative = _adaptive_error((1 + beta) * old - beta * x0, data)
    policy = (clip / beta * (r * positive + (1 - r) * negative)).mean()
    loss, mean_kl = add_penalty(policy, "kl", kl, kl_weight)
    return NFTLoss(loss, policy.detach(), mean_kl, positive.detach().mean(), negative.detach().mean())


def old_policy_decay(step: int, start: int = 0, rate: float = 1e-3, ceiling: float = 0.5) -> float:
    """d of old <- d old + (1 - d) policy after update `step`: 0 until start, then rising. Official: (0, 1e-3, 0.5)
    for most rewards, (75, 0.0075, 0.999) for text rendering and several rewards; (0, 0, 0) is fully on-policy."""
    return min(max(0.0, rate * (step - start)), ceiling)
