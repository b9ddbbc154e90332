"""On-policy distillation of denoising steps, DiffusionOPD, arXiv 2605.15055.

    loss = mean_i 1/2 mean_d (student_i - sg teacher_i)^2 / variance_i

Both are asked at a state x_i that the student itself has reached. What is compared is a choice: the network's predictions
(variance 1), or the means of the sampler's step, as the official code does. Of a deterministic step these differ by
Delta (v - v_teacher), so that on SD3's schedule a late step weighs 45 times the first; with the step's own variance the loss
is the exact KL of the two steps. Several teachers are summed there, each prompt has one of them here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .error import squared_error


class OPDLoss(NamedTuple):
    """loss: scalar with gradient; error: mean squared difference, detached."""

    loss: Tensor
    error: Tensor


def opd_loss(student: Tensor, teacher: Tensor, variance: Tensor | None = None) -> OPDLoss:
    """student with gradient, teacher, both [B, ...]; variance: [B] of the step, None for 1. A plain batch mean.

    ValueError where the variance of a step is 0: a step without noise has no KL.
    """
    error = squared_error(student, teacher.detach())
    if variance is not None and not bool((variance > 0).all()):
        raise ValueError(
            "weighting: 'exact KL' divides by the variance of a random step, and there is a step without noise; "
            "make the steps random in the sampling settings, or choose another weighting"
        )
    each = error / 2 if variance is None else error / (2 * variance.detach())
    return OPDLoss(each.mean(), error.detach().mean())


def domains(prompts: Tensor, fits: Tensor, draw: Tensor) -> Tensor:
    """[B] int64: the teacher of each sample. fits: [P, K] bool, which teachers a prompt may have; prompts: [B] the samples'
    prompts; draw: [B] in [0, 1), which one where there are several. Every prompt needs one."""
    allowed = fits[prompts]
    place = (draw * allowed.sum(1)).floor()[:, None] + 1
    return ((allowed.cumsum(1) == place) & allowed).to(torch.int64).argmax(1)
