"""ReFL, arXiv 2304.05977: reward of an x0 predicted in one step from the middle of the chain, hinged.

    loss = scale * mean_i max(0, margin - r_i) + pretrain_weight * mean_i error_i

scale 1e-3, margin 2 with ImageReward's unit-variance scores; no gradient from images that already reach the margin.
The paper's second term, the denoising error on real images, is absent from the official code (THUDM/ImageReward) and
optional here: it is what keeps the model a model of images.
"""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .penalty import add_penalty


class RewardLoss(NamedTuple):
    """loss: scalar with gradient. Detached scalars: reward (mean), saturated (share without gradient)."""

    loss: Tensor
    reward: Tensor
    saturated: Tensor


def hinge_reward_loss(rewards: Tensor, margin: float, scale: float = 1.0) -> RewardLoss:
    """rewards [B] with gradient. A plain batch mean."""
    loss = scale * (margin - rewards).relu().mean()
    return RewardLoss(loss, rewards.detach().mean(), (rewards.detach() >= margin).to(rewards.dtype).mean())


def refl_loss(
    rewards: Tensor,
    margin: float = 2.0,
    scale: float = 1e-3,
    pretrain_error: Tensor | None = None,
    pretrain_weight: float = 0.0,
) -> RewardLoss:
    """rewards [B], pretrain_error [B'] (error.squared_error), both with gradient. Each a plain batch mean."""
    out = hinge_reward_loss(rewards, margin, scale)
    return out._replace(loss=add_penalty(out.loss, "pretrain_error", pretrain_error, pretrain_weight)[0])
