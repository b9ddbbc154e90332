"""Diffusion-DPO, arXiv 2311.12908 (and flow DPO, arXiv 2501.13918, with velocity errors).

    inside_i = -beta / 2 * ((error_w - error_l) - (error_ref_w - error_ref_l))_i
    loss     = mean_i -log sigmoid(inside_i)

error [N]: mean_d (prediction - target)^2 of winner and loser at one shared timestep and one shared noise, in the
network's own space (eps, v, velocity). Official convention (SalesforceAIResearch/DiffusionDPO): the 1/2 is part of
the formula, errors are means, beta is 2000 to 5000 for eps and about 100 for flow. Diffusers' SD1.5 script leaves
out the 1/2 (its 2500 is our 5000). The flow paper's weight (1 - t)^2 on beta is left out, as its authors recommend.
Watch winner_gap: the margin can grow while both errors rise, which is damage; sdpo.py is the safeguard.
"""
from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class PairLoss(NamedTuple):
    """loss: scalar with gradient, ln 2 at the start. Detached: inside [N]; accuracy (share of inside above 0, ties
    half), winner_gap and loser_gap (mean of error - reference error): scalars."""

    loss: Tensor
    inside: Tensor
    accuracy: Tensor
    winner_gap: Tensor
    loser_gap: Tensor


def diffusion_dpo_loss(
    winner_error: Tensor, loser_error: Tensor, ref_winner_error: Tensor, ref_loser_error: Tensor, beta: float = 5000.0
) -> PairLoss:
    """All [N], one row per pair; gradient through the first two. A plain batch mean."""
    winner_gap, loser_gap = winner_error - ref_winner_error.detach(), loser_error - ref_loser_error.detach()
    inside = -0.5 * beta * (winner_gap - loser_gap)
    sign = inside.detach().sign()
    return PairLoss(
        -F.logsigmoid(inside).mean(), inside.detach(), (0.5 + 0.5 * sign).mean(),
        winner_gap.detach().mean(), loser_gap.detach().mean(),
    )
