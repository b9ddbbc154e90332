"""D3PO, arXiv 2311.13231: direct preference optimization on each denoising step of two trajectories.

    d(k)   = clip(log_prob_k - ref_log_prob_k, log(1 - c), log(1 + c))        k = winner, loser
    loss   = mean_i -log sigmoid(beta (d(winner) - d(loser))_i)

Rows i are (pair, step); log-probabilities are means over dimensions, beta 0.1, c 0.1. As the official code
(yk7333/d3po) but for its naive log(sigmoid), which overflows, and its ties: it keeps tied pairs at a constant ln 2,
ours are skipped before (preferences.py). The gradient is 0 where a ratio is clipped, on both sides.
"""
from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class StepPairLoss(NamedTuple):
    """loss: scalar with gradient, ln 2 at the start. Detached: inside [N]; accuracy (ties half), clip_fraction (of
    winner and loser ratios), winner_gain and loser_gain (mean of log_prob - ref_log_prob): scalars."""

    loss: Tensor
    inside: Tensor
    accuracy: Tensor
    clip_fraction: Tensor
    winner_gain: Tensor
    loser_gain: Tensor


def d3po_loss(
    winner_log_prob: Tensor,
    loser_log_prob: Tensor,
    ref_winner_log_prob: Tensor,
    ref_loser_log_prob: Tensor,
    beta: float = 0.1,
    clip_range: float = 0.1,
    weights: Tensor | None = None,
) -> StepPairLoss:
    """All [N]; gradient through the first two. weights [N] or None: a factor for each row. A plain batch mean."""
    gains = torch.stack([winner_log_prob - ref_winner_log_prob.detach(), loser_log_prob - ref_loser_log_prob.detach()])
    clipped = gains.clamp(math.log(1 - clip_range), math.log(1 + clip_range))
    inside = beta * (clipped[0] - clipped[1])
    losses = -F.logsigmoid(inside)
    outside, gains, inside = (clipped != gains).to(losses.dtype), gains.detach(), inside.detach()
    return StepPairLoss(
        (losses if weights is None else weights * losses).mean(), inside, (0.5 + 0.5 * inside.sign()).mean(),
        outside.mean(), gains[0].mean(), gains[1].mean(),
    )
