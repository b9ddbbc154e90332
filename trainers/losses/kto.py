"""Diffusion-KTO, arXiv 2404.04465: preferences from single thumbs up or down, no pairs.

    g_i  = error_ref_i - error_i,   z = max(0, mean of g over the whole batch), no gradient
    h_i  = sigmoid(y_i beta (g_i - z)),   y_i = 1 for desirable, -1 for undesirable
    loss = mean_i weight(y_i) (1 - h_i)

error [B]: mean_d (prediction - target)^2; beta 1000 with this mean (no 1/2 in it, unlike Diffusion-DPO). The loss is
1/2 at the start. z is the official default ("none"), over the batch with both labels; the sigmoid utility is the
paper's recommended one of its five. z belongs to the whole batch: compute it once and hand it to each micro-batch.
"""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class KTOLoss(NamedTuple):
    """loss: scalar with gradient. Detached scalars: desirable_gain and undesirable_gain (mean g of each label, 0 if
    the batch has none), accuracy (share of y (g - z) above 0, ties half)."""

    loss: Tensor
    desirable_gain: Tensor
    undesirable_gain: Tensor
    accuracy: Tensor


def reference_point(error: Tensor, ref_error: Tensor) -> Tensor:
    """z, a detached scalar, from the errors [B] of the whole batch. Noisy below about 8 samples."""
    return (ref_error - error).detach().mean().clamp_min(0)


def kto_loss(
    error: Tensor,
    ref_error: Tensor,
    desirable: Tensor,
    reference: Tensor,
    beta: float = 1000.0,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> KTOLoss:
    """error, ref_error [B]; desirable bool [B]; reference from reference_point. A plain batch mean, given that.

    With more thumbs of one kind, weights that make count * weight equal on both sides balance them.
    """
    gain = ref_error.detach() - error
    good = desirable.to(error.dtype)
    sign = 2 * good - 1
    utility = (sign * beta * (gain - reference.detach())).sigmoid()
    weight = desirable_weight * good + undesirable_weight * (1 - good)
    gain, agree = gain.detach(), (sign * (gain - reference)).detach().sign()
    means = [gain.where(rows, 0.0).sum() / rows.sum().clamp_min(1) for rows in (desirable, ~desirable)]
    return KTOLoss((weight * (1 - utility)).mean(), *means, (0.5 + 0.5 * agree).mean())
