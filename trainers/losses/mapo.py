"""MaPO, arXiv 2406.06424: margin-aware preference optimization, without a reference model.

    phi(m) = s m / (exp(s m) - 1)           an odds-like likelihood that falls with the error m, phi(0) = 1
    loss   = mean_i m_w - beta * mean_i log sigmoid(T (phi(m_w) - phi(m_l)))

m [N]: mean_d (prediction - target)^2 of winner and loser at one shared timestep and noise. s 0.5, T 1000, beta 0.1 as
in the official code (mapo-t2i/mapo). The first term keeps the winner likely, so nothing else holds the model back.
"""
from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class MaPOLoss(NamedTuple):
    """loss: scalar with gradient. Detached scalars: likelihood (mean m_w), margin (mean phi(m_w) - phi(m_l)),
    winner_error, loser_error, accuracy (share of positive margins, ties half)."""

    loss: Tensor
    margin: Tensor
    winner_error: Tensor
    loser_error: Tensor
    accuracy: Tensor


def phi(error: Tensor, scale: float = 0.5) -> Tensor:
    """s m / (exp(s m) - 1), finite at m = 0 with its true slope -s/2."""
    m = scale * error
    small = m.abs() < 1e-5
    return torch.where(small, 1 - m / 2, m / torch.expm1(m.where(~small, 1.0)))


def mapo_loss(
    winner_error: Tensor, loser_error: Tensor, beta: float = 0.1, scale: float = 0.5, temperature: float = 1000.0
) -> MaPOLoss:
    """Both [N] with gradient. A plain batch mean."""
    margin = phi(winner_error, scale) - phi(loser_error, scale)
    loss = winner_error.mean() - beta * F.logsigmoid(temperature * margin).mean()
    winner, loser, margin = winner_error.detach(), loser_error.detach(), margin.detach()
    return MaPOLoss(loss, margin.mean(), winner.mean(), loser.mean(), (0.5 + 0.5 * margin.sign()).mean())
