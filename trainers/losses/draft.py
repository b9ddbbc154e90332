"""Reward backpropagation through the sampler: DRaFT (arXiv 2309.17400), DRTune (2405.00760), AlignProp (2310.03739).

    DRaFT, DRTune:  loss = -mean_i r_i                 + kl_weight * mean_i drift_i
    AlignProp:      loss = coefficient * mean_i |r_i - target|      (or DRaFT's with the coefficient, no target)

The methods differ in which part of the sampler carries gradient, not here. No official DRaFT code exists; drift_i [B]
is DRaFT+'s (NeMo-Aligner) mean_d (prediction - reference prediction)^2 at the back-propagated steps, 0 = off.
AlignProp's target (10 for aesthetics, above any score) makes |r - target| a maximisation that turns back beyond it;
as its official code, coefficient 0.01.
"""
from __future__ import annotations

import torch
from torch import Tensor

from .penalty import add_penalty
from .refl import RewardLoss


def draft_loss(rewards: Tensor, drift: Tensor | None = None, kl_weight: float = 0.0) -> RewardLoss:
    """rewards [B], drift [B], both with gradient. A plain batch mean."""
    loss, _ = add_penalty(-rewards.mean(), "drift", drift, kl_weight)
    return RewardLoss(loss, rewards.detach().mean(), torch.zeros_like(loss.detach()))


def alignprop_loss(rewards: Tensor, target: float | None = None, coefficient: float = 0.01) -> RewardLoss:
    """rewards [B] with gradient. target None: maximise without bound. A plain batch mean."""
    if target is None:
        loss = -coefficient * rewards.mean()
        return RewardLoss(loss, rewards.detach().mean(), torch.zeros_like(loss.detach()))
    beyond = (rewards.detach() >= target).to(rewards.dtype).mean()
    return RewardLoss(coefficient * (rewards - target).abs().mean(), rewards.detach().mean(), beyond)
