"""Latent consistency distillation, arXiv 2310.04378 and 2311.05556 (LCM-LoRA); in phases, arXiv 2405.18407 (PCM).

    teacher: x_next = one ODE step from x_t, with guidance
    student: end    = its one step from x_next to the goal of t (x_next itself where that is the goal)
    target          = the x0 with which one step from x_t ends in sg end
    loss            = mean_i mean_d distance(x0(x_t, t), target)

The goal is sigma 0 for LCM, and the end of the student's own sampling step for PCM. LCM's official f = c_skip x + c_out x0
is x0 to 1e-5 wherever it is trained, and x at the goal, as here.
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
