"""Consistency distillation: few-step sampling for a model that was post-trained before.

The teacher is the model under the policy, with every LoRA that the user has put on it, at any guidance scale. Only
latents and prompts count, so the rollout may come from any sampler: made by the teacher (the policy as it was created)
or by the student itself.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from ..rewards.base.words import brief
from .engine.cost import Train, Work, branches
from .engine.limits import ABOVE_0, FROM_0, FROM_1, FROM_2
from .engine.renoise import Noised, Renoised, noised, teacher_grid, usable
from .engine.update import Optimizer, numbers, update
from .feedback.fits import Feedback
from .losses.lcm import consistency_loss
from .noise.paths import Path, expand
from .noise.transitions import deterministic
from .policy.network import Network
from .policy.uploads import uploaded
from .policy.value import Bank, Policy
from .sampling.rollout import Rollout

HUBER = 1e-3  # the official c


@dataclass(frozen=True)
class LCM:
    """LCM-LoRA (arXiv:2311.05556); with student_steps, progressive distillation (arXiv:2202.00512) in one stage.

    teacher_steps: noise levels of the teacher's sampler, 2 or more; student_steps: steps that the student shall be sampled
    with, each of which it learns to take at once, 0: it learns to go all the way from everywhere, as LCM does; guidance:
    the teacher's scale, 0: the one that the rollout was sampled with; huber: c of the pseudo-Huber distance, None:
    squares; levels: noise levels per image.
    """

    LIMITS: ClassVar[dict] = {"teacher_steps": FROM_2, "student_steps": FROM_0, "guidance": FROM_0, "huber": ABOVE_0,
                              "levels": FROM_1}
    teacher_steps: int = 16
    student_steps: int = 4
    guidance: float = 0.0
    huber: float | None = None
    levels: int = 4


@dataclass(frozen=True)
class Way:
    """Where the student learns, and what it learns to reach from there.

    grid: [N + 1], the teacher's noise levels, 0 at the end; starts: those that the student learns at; teacher: steps that
    the teacher walks from there; student: whether the student then goes on, at once to sigma 0.
    """

    grid: torch.Tensor
    starts: torch.Tensor
    teacher: int
    student: bool
    __repr__ = brief

    def places(self, sigma: torch.Tensor) -> torch.Tensor:
        """[B]: where on the grid these of its noise levels are."""
        return (self.grid[None] == sigma[:, None].to(self.grid)).int().argmax(1)


def train_lcm(policy: Policy, rollout: Rollout, feedback: Feedback | None, settings: LCM, optimizer: Optimizer,
              progress: Callable | None = None) -> Policy:
    """A distillation step. Evaluations per image and level: 1 with gradient; for LCM 1 of the teacher (2 with guidance) and
    1 of the student, else the teacher's steps in one of the student's (twice as many with guidance).

    The official last step ends at timestep 0, where a little noise is left; this one ends at sigma 0, as ComfyUI's
    samplers do.
    """
    way, guidance = way_of(policy, settings), settings.guidance or rollout.guidance
    steps = noised(rollout, usable(rollout), settings.levels, optimizer.updates, rollout.batch_size, grid=way.starts)

    def evaluate(net: Network, bank: Bank, micro: Noised):
        renoised = Renoised(net, rollout, micro)
        out = consistency_loss(renoised.ask(bank), target(renoised, bank, way, guidance), settings.huber)
        return out.loss, numbers(consistency_error=out.error)

    return update(policy, steps, evaluate, optimizer, progress=progress)


@torch.no_grad()
def target(renoised: Renoised, bank: Bank, way: Way, guidance: float) -> torch.Tensor:
    """[B, C, H, W]: the x0 with which one step of the student's ends where the teacher's steps lead."""
    net, place = renoised.net, way.places(renoised.micro.sigma)
    prompts, index = renoised.rollout.prompts, renoised.rollout.index[renoised.micro.rows]
    x, sigma = renoised.x, renoised.sigma
    for step in range(1, way.teacher + 1):
        x0 = net.denoise(x, sigma, prompts, index, guidance, None, schedule=way.grid)
        sigma_next = uploaded(way.grid[place + step], x.device, x.dtype)
        x, sigma = deterministic()(net.path, x, x0, sigma, sigma_next).mean, sigma_next
    if not way.student:
        return x0_between(net.path, renoised.x, x, renoised.sigma, sigma)
    # at the end the answer is x itself, whatever the network says there
    x0 = net.denoise(x, sigma.clamp_min(float(way.grid[-2])), prompts, index, 1.0, bank, schedule=way.grid)
    return torch.where(expand(sigma > 0, x), x0, x)


def x0_between(path: Path, x: torch.Tensor, end: torch.Tensor, sigma: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """[B, ...]: the x0 with which one sampler step from x at sigma ends in ``end`` at the lower level ``goal``; both [B]."""
    (a, s), (a_end, s_end) = path.coefficients(expand(sigma, x)), path.coefficients(expand(goal, x))
    return (end - s_end / s * x) / (a_end - s_end / s * a)


def way_of(policy: Policy, settings: LCM) -> Way:
    """ValueError names the number of steps that does not fit."""
    grid, steps, student = teacher_grid(policy, settings.teacher_steps), settings.teacher_steps, settings.student_steps
    if student == 0:
        return Way(grid, grid[:-1], 1, student=True)
    if steps % student:
        raise ValueError(f"student steps: {student} does not divide the teacher's {steps} steps; choose teacher steps that "
                         "are a multiple of it, or 0")
    return Way(grid, grid[:-1:steps // student], steps // student, student=False)


def lcm_cost(settings: LCM, work: Work) -> Train:
    """The teacher's steps in one of the student's; without those, one step of it and one answer of the student."""
    each = branches(settings.guidance or work.guidance)
    further = each * settings.teacher_steps // settings.student_steps if settings.student_steps else each + 1
    return work.noised(settings.levels, further)
