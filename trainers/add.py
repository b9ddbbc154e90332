"""Adversarial diffusion distillation (arXiv:2311.17042): one-step answers that a discriminator cannot tell from the
teacher's pictures.

The teacher is the model under the policy, as for consistency distillation. The rollout's images are the real ones: make
them with the teacher, at the steps and guidance that it needs.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from ..rewards.base.words import brief
from .engine.limits import ABOVE_0, FROM_0, FROM_1, INSIDE_0_1
from .engine.renoise import Noised, Renoised, noised, teacher_grid, usable
from .engine.update import Beside, Optimizer, numbers, update
from .feedback.fits import Feedback
from .judges.discriminator import Discriminator, new_heads
from .losses.add import student_loss
from .noise.paths import Path, sigma_at
from .noise.streams import Stream, generator
from .policy.levels import path_of
from .policy.network import Network
from .policy.uploads import uploaded
from .policy.value import Bank, Policy
from .sampling.rollout import Rollout

DISCRIMINATOR = "discriminator"
TEACHER_LEVELS = 100  # the fine grid that the teacher's noise levels are drawn from
SHARE = 0.05, 0.9  # of noise where the discriminator looks: not less and not more


@dataclass(frozen=True)
class ADD:
    """ADD (arXiv:2311.17042). student_steps: noise levels of the student's sampler; guidance: the teacher's scale, 0: the
    one that the rollout was sampled with; distill_weight: of the teacher's answer against the discriminator's;
    discriminator_rate: learning rate of its heads; judge_noise: share of noise in what they look at, the middle of a
    logit-normal distribution (LADD's own is 0.73); r1_weight: how smooth they are kept; levels: noise levels per image."""

    LIMITS: ClassVar[dict] = {"student_steps": FROM_1, "guidance": FROM_0, "distill_weight": FROM_0,
                              "discriminator_rate": ABOVE_0, "judge_noise": INSIDE_0_1, "r1_weight": FROM_0, "levels": FROM_1}
    student_steps: int = 4
    guidance: float = 0.0
    distill_weight: float = 2.5
    discriminator_rate: float = 5e-3
    judge_noise: float = 0.5
    r1_weight: float = 1e-5
    levels: int = 4


@dataclass(frozen=True)
class Duel:
    """One micro-batch: the states that the student answers, and the noise under which its answer is looked at by the
    teacher and by the discriminator."""

    student: Noised
    teacher: Noised
    judge: Noised
    __repr__ = brief

    @property
    def size(self) -> int:
        return self.student.size


def train_add(policy: Policy, rollout: Rollout, feedback: Feedback | None, settings: ADD, optimizer: Optimizer,
              progress: Callable | None = None) -> Policy:
    """An ADD step: student and discriminator move together. Evaluations per image and level: 1 with gradient; 1 of the
    teacher (2 with guidance); and of the network's first two thirds 1 with gradient for the student's answer and 1 for
    the real image. One evaluation more in the first step, which finds out the features' sizes.
    """
    guidance = settings.guidance or rollout.guidance
    beside = Beside(DISCRIMINATOR, partial(new_heads, rollout=rollout),
                    Optimizer(learning_rate=settings.discriminator_rate, max_grad_norm=0.0))

    def evaluate(net: Network, bank: Bank, duel: Duel, heads: Bank):
        judge = Discriminator(net, rollout, duel.judge, heads)
        x0 = Renoised(net, rollout, duel.student).ask(bank)
        fake, looked_at = judge.fake(x0)
        coefficient = trust(net.path, uploaded(duel.teacher.sigma, x0.device, x0.dtype))
        student = student_loss(fake, x0, teacher_answer(net, rollout, duel.teacher, x0, guidance), coefficient,
                               settings.distill_weight)
        judged = judge.loss(looked_at, settings.r1_weight)
        report = numbers(adversarial=student.adversarial, distill=student.distill, discriminator_loss=judged.loss,
                         real_logit=judged.real, fake_logit=judged.fake)
        return student.loss + judged.loss, report

    return update(policy, duels(policy, rollout, settings, optimizer.updates), evaluate, optimizer, progress=progress,
                  beside=beside)


def trust(path: Path, sigma: torch.Tensor) -> torch.Tensor:
    """[B]: the weight c of the teacher's answer at ``sigma``, smaller the more noise it was asked under."""
    return 1 - sigma if path.name == "flow" else 1 / (1 + sigma**2).sqrt()


@torch.no_grad()
def teacher_answer(net: Network, rollout: Rollout, micro: Noised, x0: torch.Tensor, guidance: float) -> torch.Tensor:
    """[B, C, H, W]: what the teacher makes of the student's ``x0`` after noising it again."""
    sigma = uploaded(micro.sigma, x0.device, x0.dtype)
    x = net.path.add_noise(x0, uploaded(micro.noise, x0.device, x0.dtype), sigma)
    return net.denoise(x, sigma, rollout.prompts, rollout.index[micro.rows], guidance, None,
                       schedule=rollout.sigmas)


def duels(policy: Policy, rollout: Rollout, settings: ADD, updates: int) -> list[list[Duel]]:
    """The micro-batches of each update: every image at ``levels`` of the student's noise levels."""
    sampling = policy.model.get_model_object("model_sampling")
    grid, fine = student_grid(policy, settings.student_steps), teacher_grid(policy, TEACHER_LEVELS)[:-1]
    steps = noised(rollout, usable(rollout), settings.levels, updates, rollout.batch_size, grid=grid)
    path, middle = path_of(sampling), math.log(settings.judge_noise / (1 - settings.judge_noise))

    def teacher(random: torch.Generator) -> torch.Tensor:
        return fine[int(torch.randint(len(fine), (), generator=random))]

    def judge(random: torch.Generator) -> torch.Tensor:
        share = torch.sigmoid(torch.randn((), generator=random) + middle).clamp(*SHARE)
        return sigma_at(path, share).clamp(max=float(sampling.sigma_max))

    return [[Duel(micro, redrawn(rollout, micro, level % settings.levels, teacher, Stream.TEACHER_DRAW),
                  redrawn(rollout, micro, level % settings.levels, judge, Stream.DISCRIMINATOR_DRAW))
             for level, micro in enumerate(micros)] for micros in steps]


def student_grid(policy: Policy, steps: int) -> torch.Tensor:
    """[steps]: the noise levels at which a sampler of that many steps asks the network."""
    return teacher_grid(policy, steps)[:-1]


def redrawn(rollout: Rollout, micro: Noised, level: int, sigma_of: Callable, key: int) -> Noised:
    """The same samples at new noise levels ``sigma_of(generator)`` with new noise."""
    draws = []
    for row in micro.rows.tolist():
        random = generator(rollout.iteration, int(rollout.seeds[row]), level, key)
        draws.append((sigma_of(random), torch.randn(rollout.latents.shape[1:], generator=random)))
    return Noised(micro.rows, torch.stack([sigma for sigma, _ in draws]), torch.stack([noise for _, noise in draws]),
                  micro.first)
