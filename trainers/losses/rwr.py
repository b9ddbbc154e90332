"""Reward-weighted regression as in DDPO's paper, arXiv 2305.13301 (after Lee et al., arXiv 2302.12192).

    loss = mean_i w_i error_i,   error_i = mean_d (prediction - target)^2 on the policy's own images, re-noised

Weights (mean 1 over the usable rewards, 0 where a reward failed), computed over the whole data set and handed to
every micro-batch: softmax(beta r) of all or within each prompt; sparse: the best ones alike, the others 0.
beta is the inverse temperature (official: 1/5 as "temperature", multiplied). beta 0 is plain fine-tuning on one's
own samples. The official code (jannerm/ddpo) evaluates the error under guidance; that is the caller's choice.
"""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RWRLoss(NamedTuple):
    """loss: scalar with gradient; error: mean of the unweighted errors, detached."""

    loss: Tensor
    error: Tensor


def rwr_loss(error: Tensor, weights: Tensor) -> RWRLoss:
    """error [B] (error.squared_error) with gradient, weights [B] of the whole set. A plain batch mean, given those."""
    return RWRLoss((weights.detach() * error).mean(), error.detach().mean())


def _mean_one(weights: Tensor, usable: Tensor) -> Tensor:
    return weights * usable.sum() / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def softmax_weights(rewards: Tensor, beta: float = 0.2, groups: Tensor | None = None) -> Tensor:
    """[N] rewards -> [N] weights: softmax over all N times N, or within each group (int64 [N]) times its size."""
    usable = rewards.isfinite()
    if groups is not None:
        weights = torch.zeros_like(rewards)
        for group in groups.unique():
            weights[groups == group] = softmax_weights(rewards[groups == group], beta)
        return weights
    if not usable.any():
        return torch.zeros_like(rewards)
    return _mean_one((beta * rewards).where(usable, -torch.inf).softmax(0), usable)


def sparse_weights(rewards: Tensor, percentile: float = 90.0) -> Tensor:
    """[N] -> [N]: one weight for rewards at or above the percentile, 0 below (the paper's RWR_sparse)."""
    usable = rewards.isfinite()
    if not usable.any():
        return torch.zeros_like(rewards)
    best = usable & (rewards >= torch.quantile(rewards[usable], percentile / 100))
    return _mean_one(best.to(rewards.dtype), usable)
