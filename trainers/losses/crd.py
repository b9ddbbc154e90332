"""CRD: centred reward distillation, arXiv 2603.14128: the policy's own implicit reward learns to be the true one.

    l(p) = mean_d (p - target)^2 / max(1e-5, sg mean_d |p - target|),   r_i = l_old_i - l_i   (implicit reward)
    a_i  = clip(A_i / (2 clip) + 1/2, 0, 1)                                                   (external reward)
    r^c, a^c = both less their mean over the images of the prompt, that of r without gradient
    loss = clip / beta * mean_i (beta r^c_i - a^c_i)^2  +  mean_i k_i KL_i

A reward is known up to a number of the prompt's own, which centring takes out: within the prompt, as in the paper; the official
code centres over all it has gathered. A temperature T makes two means, of weights softmax(a / T) and softmax(-a / T), and the
mean of two such losses. KL_i [B]: mean_d (p - p_ref)^2, p_ref guided; k_i, from LEAST_KL at a = 0 to kl_weight at a = 1, holds
the best images hardest. "choices": binary cross-entropy of beta r^c against sigmoid(a^c).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from .error import squared_error
from .penalty import add_penalty

FORMS = ("squares", "choices")
LEAST_KL = 1e-4  # weight of the KL of an image of no reward


class CRDLoss(NamedTuple):
    """loss: scalar with gradient. Detached scalars: policy_loss, kl (weighted mean)."""

    loss: Tensor
    policy_loss: Tensor
    kl: Tensor


def adaptive_error(prediction: Tensor, target: Tensor) -> Tensor:
    """[B]: squared error over its own size, for all noise levels to weigh the same. Both [B, ...]."""
    size = (prediction - target).detach().abs().flatten(1).mean(1).clamp_min(1e-5)
    return squared_error(prediction, target) / size


def pools(external: Tensor, groups: Tensor, temperature: float = 0.0) -> list[Tensor]:
    """Weights of the means, [B] each, that sum to 1 in every group: one of equal ones, or with a temperature two."""
    index, size = groups.unique(return_inverse=True, return_counts=True)[1:]
    if temperature <= 0:
        return [(1 / size.to(external.dtype))[index]]
    found = []
    for sign in (1, -1):
        weight = (sign * external / temperature).exp()  # external lies in 0..1
        found.append(weight / torch.zeros_like(size, dtype=weight.dtype).scatter_add(0, index, weight)[index])
    return found


def centred(values: Tensor, groups: Tensor, weights: Tensor) -> Tensor:
    """[B]: values less their weighted mean over the group, which has no gradient."""
    index = groups.unique(return_inverse=True)[1]
    each = (values * weights).detach()
    return values - torch.zeros_like(each).scatter_add(0, index, each)[index]


def kl_weights(external: Tensor, kl_weight: float) -> Tensor:
    """[B] k_i, from the least (or kl_weight, where that is less) to kl_weight."""
    return (least := min(LEAST_KL, kl_weight)) + (kl_weight - least) * external


def crd_loss(
    pairs: Sequence[tuple[Tensor, Tensor]], beta: float = 1.0, clip: float = 5.0, form: str = FORMS[0], kl: Tensor | None = None
) -> CRDLoss:
    """pairs: (implicit, external) centred rewards [B] of each pool; kl: [B], weighted already, or None. A plain batch mean."""

    def apart(implicit, external):
        if form == "squares":
            return (beta * implicit - external).square().mean()
        return binary_cross_entropy_with_logits(beta * implicit, external.sigmoid())

    policy = clip / beta * torch.stack([apart(*pair) for pair in pairs]).mean()
    loss, mean_kl = add_penalty(policy, "kl", kl, 0.0 if kl is None else 1.0)
    return CRDLoss(loss, policy.detach(), mean_kl)
