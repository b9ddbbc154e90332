"""DGPO, arXiv 2510.08425: direct preference optimization between the better and the worse part of a group.

    S_g  = sum over the group's i of A_i beta (sg error_i - error_ref_i) / K,   w_g = sigmoid(S_g), no gradient
    loss = mean_i w_g A_i error_i + kl_weight * mean_i KL_i

error_i [B]: mean_d (prediction - target)^2 at one timestep and, ideally, one noise for the whole group; K: images
of the group. The gradient is that of -log sigmoid(-S_g) up to beta. At the start w_g = 1/2. Needs advantages that sum
to 0 in a group. Optional gate: with an older policy's error_old, ratio_i = exp(error_old_i - error_i), and the gradient of
error_i stops when it already moved far enough (ratio beyond 1 +- clip on the advantage's side). The official older policy
is a fast EMA, as close as 0.3 of one update; ours is the one before this rollout's first update.
S_g belongs to whole groups: compute group_weights once per timestep over all samples and hand each micro-batch its
rows. KL_i [B]: mean_d (prediction - reference)^2. As the official code (Luo-Yihong/DGPO).
"""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .penalty import add_penalty


class DGPOLoss(NamedTuple):
    """loss: scalar with gradient. Detached scalars: policy_loss, kl, gated_fraction."""

    loss: Tensor
    policy_loss: Tensor
    kl: Tensor
    gated_fraction: Tensor


def group_weights(error: Tensor, ref_error: Tensor, advantages: Tensor, groups: Tensor, beta: float = 100.0) -> Tensor:
    """w_g of each sample, [B], detached; groups int64 [B], best on the CPU. All samples of a group must be in the call."""
    index, size = (found.to(error.device) for found in groups.unique(return_inverse=True, return_counts=True)[1:])
    term = advantages * beta * (error - ref_error).detach() / size[index]
    return torch.zeros_like(term).scatter_add(0, index, term)[index].sigmoid()


def gate(error: Tensor, old_error: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """[B] bool: samples that need no further push. clip_range 1e-2 to 1e-3, 1e-5 for runs without guidance."""
    ratio = (old_error - error).detach().exp()
    return torch.where(advantages > 0, ratio > 1 + clip_range, ratio < 1 - clip_range)


def dgpo_loss(
    error: Tensor,
    advantages: Tensor,
    weights: Tensor,
    gated: Tensor | None = None,
    kl: Tensor | None = None,
    kl_weight: float = 0.0,
) -> DGPOLoss:
    """All [B]; weights from group_weights, gated from gate; gradient through error and kl. A plain batch mean then."""
    gated = torch.zeros_like(error, dtype=torch.bool) if gated is None else gated
    policy = (weights.detach() * advantages * torch.where(gated, error.detach(), error)).mean()
    loss, mean_kl = add_penalty(policy, "kl", kl, kl_weight)
    return DGPOLoss(loss, policy.detach(), mean_kl, gated.to(error.dtype).mean())
