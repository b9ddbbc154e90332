"""Latent consistency distillation: few-step sampling for a model that was post-trained before.

The teacher is the model under the policy, with every LoRA that the user has put on it, at any guidance scale. Only
latents and prompts count, so the rollout may come from any sampler: made by the teacher (the policy as it was created)
or by the student itself.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from .feedback import Feedback
from .forward_process import Noised, Question, check_positive, noised, numbers
from .losses.lcm import consistency_function, consistency_loss
from .paths import Path, expand
from .policy.network import Network, sigmas_of
from .policy.value import Bank, Policy
from .rollout import Rollout
from .transitions import deterministic
from .update import Optimizer, update

HUBER = 1e-3  # the official c


@dataclass(frozen=True)
class LCM:
    """LCM-LoRA (arXiv:2311.05556). teacher_steps: noise levels of the teacher's sampler, 2 or more; guidance: the
    teacher's scale, 0: the one that the rollout was sampled with; huber: c of the pseudo-Huber distance, None: squares;
    levels: noise levels per image."""

    LEARNS_FROM: ClassVar[None] = None
    teacher_steps: int = 50
    guidance: float = 0.0
    huber: float | None = None
    levels: int = 4


def train_lcm(policy: Policy, rollout: Rollout, feedback: Feedback | None, settings: LCM, optimizer: Optimizer,
              progress: Callable | None = None) -> Policy:
    """An LCM step. Evaluations per image and level: 1 with gradient, 1 of the student, 1 of the teacher (2 with
    guidance).

    The official last step ends at timestep 0, where a little noise is left; this one ends at sigma 0, as ComfyUI's
    samplers do.
    """
    if settings.huber is not None:
        check_positive(huber=settings.huber)
    grid, guidance = teacher_grid(policy, settings.teacher_steps), settings.guidance or rollout.guidance
    rollout = with_fresh_noise(rollout, policy)
    everything = torch.ones(len(rollout.index), dtype=torch.bool)
    steps = noised(rollout, everything, settings.levels, optimizer.updates, rollout.batch_size, grid=grid[:-1])

    def evaluate(net: Network, bank: Bank, micro: Noised):
        question = Question(net, rollout, micro)
        out = consistency_loss(student(question, bank, grid), target(question, bank, grid, guidance), settings.huber)
        return out.loss, numbers(consistency_error=out.error)

    return update(policy, steps, evaluate, optimizer, progress=progress)


def student(question: Question, bank: Bank, grid: torch.Tensor) -> torch.Tensor:
    """f [B, C, H, W] of the question's states."""
    t = timestep(places(grid, question.micro.sigma), grid)
    return consistency(question.net.path, question.x, question.ask(bank), question.sigma, t)


@torch.no_grad()
def target(question: Question, bank: Bank, grid: torch.Tensor, guidance: float) -> torch.Tensor:
    """f [B, C, H, W] one step of the teacher's further."""
    place = places(grid, question.micro.sigma) + 1
    net, sigma = question.net, grid[place].to(question.x)
    teacher = question.ask(None, guidance=guidance)
    x = deterministic()(net.path, question.x, teacher, question.sigma, sigma).mean
    # at the end f is x itself, whatever the network says there
    asked_at = sigma.clamp_min(float(grid[-2]))
    index = question.rollout.index[question.micro.rows]
    x0 = net.denoise(x, asked_at, question.rollout.prompts, index, 1.0, bank)
    return consistency(net.path, x, x0, sigma, timestep(place, grid))


def consistency(path: Path, x: torch.Tensor, x0: torch.Tensor, sigma: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """f [B, ...] of the state x in our convention; sigma [B], t [B] the timestep 0..999."""
    unit = x if path.name == "flow" else x / (1 + expand(sigma, x) ** 2).sqrt()
    return consistency_function(unit, x0, t.to(x.device))


def teacher_grid(policy: Policy, steps: int) -> torch.Tensor:
    """[steps + 1] noise levels of the teacher's sampler, evenly spaced in time, the last 0. ValueError names steps."""
    if steps < 2:
        raise ValueError(f"teacher steps: {steps} is not possible; choose 2 or more, usually 20 to 50")
    return sigmas_of(policy.model.get_model_object("model_sampling"), "simple", steps)


def places(grid: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """[B]: where on the grid these of its noise levels are."""
    return (grid[None] == sigma[:, None].to(grid)).int().argmax(1)


def timestep(place: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """[B] in 0..999: the official timestep of each place; 0 at the end."""
    steps = len(grid) - 1
    return (1000.0 * (steps - place) / steps - 1).clamp_min(0)


def with_fresh_noise(rollout: Rollout, policy: Policy) -> Rollout:
    """The rollout under the policy's iteration: images that were made once before the loop get new noise in each."""
    return replace(rollout, iteration=policy.iteration)
