"""Adversarial diffusion distillation, arXiv 2311.17042.

    discriminator = mean max(0, 1 - D(real)) + mean max(0, 1 + D(fake)) + r1_weight * R1
    student       = -mean D(fake) + distill_weight * mean_i c_i mean_d (x0 - sg x0_teacher)^2

x0: the student's one-step answer; x0_teacher: the teacher's answer at a re-noised x0; c_i = the data coefficient there
(flow 1 - sigma, eps 1 / sqrt(1 + sigma^2)), which trusts the teacher less at high noise. D(.): logits of small heads
on a frozen network's features, any shape [B, ...]; ours on the teacher's of noised latents, as LADD, arXiv 2403.12015.
R1: squared gradient of D(real) with respect to the features. distill_weight 2.5 and r1_weight 1e-5
as in the paper. No official training code exists.
"""
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class DiscriminatorLoss(NamedTuple):
    """loss: scalar with gradient. Detached scalars: real, fake (mean logits), r1."""

    loss: Tensor
    real: Tensor
    fake: Tensor
    r1: Tensor


class StudentLoss(NamedTuple):
    """loss: scalar with gradient. Detached scalars: adversarial, distill."""

    loss: Tensor
    adversarial: Tensor
    distill: Tensor


def r1_penalty(logits: Tensor, features: Tensor) -> Tensor:
    """[B]: squared norm of d logits / d features [B, ...], with a graph so that it trains the discriminator."""
    (gradient,) = torch.autograd.grad(logits.sum(), features, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def discriminator_loss(
    real: Tensor, fake: Tensor, r1: Tensor | None = None, r1_weight: float = 1e-5
) -> DiscriminatorLoss:
    """real, fake: logits [B, ...]; r1 [B] from r1_penalty or None. Plain batch means."""
    penalty = real.new_zeros(()) if r1 is None else r1.mean()
    loss = (1 - real).relu().mean() + (1 + fake).relu().mean() + r1_weight * penalty
    return DiscriminatorLoss(loss, real.detach().mean(), fake.detach().mean(), penalty.detach())


def student_loss(
    fake: Tensor, x0: Tensor, x0_teacher: Tensor, coefficient: Tensor, distill_weight: float = 2.5
) -> StudentLoss:
    """fake: logits [B, ...] of the student's x0; x0, x0_teacher [B, ...]; coefficient c [B]. Plain batch means."""
    adversarial = -fake.mean()
    distill = (coefficient * (x0 - x0_teacher.detach()).square().flatten(1).mean(1)).mean()
    return StudentLoss(adversarial + distill_weight * distill, adversarial.detach(), distill.detach())
