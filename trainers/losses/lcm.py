"""Latent consistency distillation, arXiv 2310.04378 and 2311.05556 (LCM-LoRA), and progressive distillation, 2202.00512.

    LCM:         x_next = one ODE step of the teacher from x_t, with guidance
                 target = the student's x0 there (x_next itself at sigma 0)
    progressive: end    = the teacher's own steps from x_t to the end of one step of the student's
                 target = the x0 with which one step from x_t ends there
    loss = mean_i mean_d distance(x0(x_t, t), sg target)

LCM's official f = c_skip x + c_out x0 is x0 to 1e-5 wherever it is trained, and x at the end, as here.
Distance: (a - b)^2, or pseudo-Huber sqrt((a - b)^2 + c^2) - c with c 1e-3.
"""
from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ConsistencyLoss(NamedTuple):
    """loss: scalar with gradient; error: mean squared distance, detached."""

    loss: Tensor
    error: Tensor


def consistency_loss(student: Tensor, target: Tensor, huber: float | None = None) -> ConsistencyLoss:
    """student = x0(x_t, t) with gradient, target, both [B, ...]. huber: c, or None for squares. A plain batch mean."""
    square = (student - target.detach()).square()
    distance = square if huber is None else (square + huber**2).sqrt() - huber
    return ConsistencyLoss(distance.flatten(1).mean(1).mean(), square.detach().mean())
