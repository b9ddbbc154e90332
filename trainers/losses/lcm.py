"""Latent consistency distillation, arXiv 2310.04378 and 2311.05556 (LCM-LoRA).

    f(x, t)  = c_skip(t) x + c_out(t) x0(x, t),   c_skip = q / (T^2 + q), c_out = T / sqrt(T^2 + q), T = 10 t, q = 1/4
    teacher: x0 = cond + w (cond - uncond), one ODE step of it from x_t to x_prev
    loss     = mean_i mean_d distance(f(x_t, t), sg f(x_prev, t_prev))

t: discrete timestep 0..999 (flow: 1000 sigma), so that f(x, 0) = x and nearly f = x0 elsewhere. w: guidance scale
minus 1 (w = 0 is the plain conditional model; keep it 0 if the teacher was post-trained without guidance).
Distance: (a - b)^2, or pseudo-Huber sqrt((a - b)^2 + c^2) - c with c 1e-3. As diffusers' LCM-LoRA script, whose x of
eps models is variance preserving: pass ours divided by sqrt(1 + sigma^2).
"""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ConsistencyLoss(NamedTuple):
    """loss: scalar with gradient; error: mean squared distance, detached."""

    loss: Tensor
    error: Tensor


def consistency_function(x: Tensor, x0: Tensor, t: Tensor) -> Tensor:
    """f [B, ...] of the state x and the network's x0, both [B, ...], at timestep t [B]."""
    scaled = 10.0 * t.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    return 0.25 / (scaled**2 + 0.25) * x + scaled / (scaled**2 + 0.25).sqrt() * x0


def guided(cond: Tensor, uncond: Tensor, w: Tensor) -> Tensor:
    """The teacher's guided x0 [B, ...]; w [B], 0 = no guidance. LCM draws w from 2 to 14 or so (scale 3 to 15)."""
    return cond + w.to(cond.dtype).reshape(-1, *[1] * (cond.ndim - 1)) * (cond - uncond)


def consistency_loss(student: Tensor, target: Tensor, huber: float | None = None) -> ConsistencyLoss:
    """student = f(x_t, t) with gradient, target = f(x_prev, t_prev), both [B, ...]. huber: c, or None for squares.

    A plain batch mean.
    """
    square = (student - target.detach()).square()
    distance = square if huber is None else (square + huber**2).sqrt() - huber
    return ConsistencyLoss(distance.flatten(1).mean(1).mean(), square.detach().mean())
