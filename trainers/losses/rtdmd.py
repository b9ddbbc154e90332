"""RTDMD for few-step models, arXiv 2605.26108: the brake of distribution matching (DMD2, arXiv 2405.14867) and its fake score.

    brake = mean 1/2 (x0 - sg(x0 - g))^2,   g = (x0_fake - x0_real) / mean_d |x0 - x0_real|
    fake  = mean_i min(1 / b_i^2, 10) mean_d (b_i v - b_i v*)^2

x0: the student's picture with gradient, renoised without one for the two answers: x0_real of the teacher, x0_fake of a network
that has learned the student's own pictures. Where the two agree the student draws what the teacher would, and g is 0.
A state x_s at noise level s is renoised to a level t above it, x_t = a x_s + b noise with a = (1 - t) / (1 - s) and
b^2 = t^2 - a^2 s^2, and the fake score's target there is v* = -x_s / (1 - s) + noise (t + s^2 (1 - t) / (1 - s)^2) / b; for
finished pictures (s = 0) that is noise - x0. The official code takes b out of both and weighs by 1 / b^2, at most 10.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .error import squared_error

LARGEST_WEIGHT = 10.0
LEAST = 1e-12  # of b^2


def brake_loss(x0: Tensor, fake: Tensor, real: Tensor) -> Tensor:
    """x0 with gradient, fake, real: [B, ...] -> scalar. Rows whose answers say nothing, being the picture itself, count 0."""
    with torch.no_grad():
        size = _expand((x0 - real).abs().flatten(1).mean(1), x0)
        wanted = x0 - ((fake - real) / size).nan_to_num(0.0, 0.0, 0.0)
    return squared_error(x0, wanted).mean() / 2


def renoised(state: Tensor, noise: Tensor, level: Tensor, to: Tensor) -> Tensor:
    """state: [B, ...] of a flow at level [B] below 1; to: [B], above it -> [B, ...]"""
    kept, added = _shares(level, to)
    return _expand(kept, state) * state + _expand(added, state) * noise


def fake_target(state: Tensor, noise: Tensor, level: Tensor, to: Tensor) -> tuple[Tensor, Tensor]:
    """(b v*, b) for ``renoised``: [B, ...] and [B]. Times b, since b may be next to nothing."""
    _, added = _shares(level, to)
    share = to + level.square() * (1 - to) / (1 - level).square()
    return _expand(share, noise) * noise - _expand(added / (1 - level), state) * state, added


def fake_score_loss(prediction: Tensor, state: Tensor, noise: Tensor, level: Tensor, to: Tensor) -> Tensor:
    """prediction: [B, ...] with gradient, the velocity at ``renoised`` -> scalar."""
    target, b = fake_target(state, noise, level, to)
    weight = (1 / b.square().clamp_min(LEAST)).clamp_max(LARGEST_WEIGHT)
    return (weight * squared_error(_expand(b, prediction) * prediction, target)).mean()


def _expand(value: Tensor, like: Tensor) -> Tensor:
    return value.reshape(-1, *[1] * (like.ndim - 1))


def _shares(level: Tensor, to: Tensor) -> tuple[Tensor, Tensor]:
    kept = (1 - to) / (1 - level)
    return kept, (to.square() - (kept * level).square()).clamp_min(LEAST).sqrt()
