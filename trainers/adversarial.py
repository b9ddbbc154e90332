"""Adversarial diffusion distillation: one-step answers that a discriminator cannot tell from the teacher's pictures.

The teacher is the model under the policy, as for consistency distillation. The discriminator is a few small heads on what
that same frozen network sees in noised latents (as LADD, arXiv:2403.12015, does), so nothing is decoded and no other
network is loaded. The rollout's images are the real ones: make them with the teacher, at the steps and guidance that it
needs.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F

from .distillation import teacher_grid, usable, with_fresh_noise
from .feedback import Feedback
from .forward_process import Noised, Question, noised, numbers
from .limits import ABOVE_0, FROM_0, FROM_1, INSIDE_0_1
from .losses.add import DiscriminatorLoss, discriminator_loss, r1_penalty, student_loss
from .paths import Path, sigma_at
from .policy.features import feature_blocks, seen
from .policy.network import Network, path_of, sigmas_of
from .policy.value import Bank, Policy
from .rollout import Rollout
from .sampling import generator
from .update import Beside, Optimizer, update

DISCRIMINATOR = "discriminator"
HIDDEN = 64
TEACHER_LEVELS = 100  # the fine grid that the teacher's noise levels are drawn from
SHARE = 0.05, 0.9  # of noise where the discriminator looks: not less and not more


@dataclass(frozen=True)
class ADD:
    """ADD (arXiv:2311.17042). student_steps: noise levels of the student's sampler; guidance: the teacher's scale, 0: the
    one that the rollout was sampled with; distill_weight: of the teacher's answer against the discriminator's;
    discriminator_rate: learning rate of its heads; judge_noise: share of noise in what they look at, the middle of a
    logit-normal distribution (LADD's own is 0.73); r1_weight: how smooth they are kept; levels: noise levels per image."""

    LEARNS_FROM: ClassVar[None] = None
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

    @property
    def size(self) -> int:
        return self.student.size


def train_add(policy: Policy, rollout: Rollout, feedback: Feedback | None, settings: ADD, optimizer: Optimizer,
              progress: Callable | None = None) -> Policy:
    """An ADD step: student and discriminator move together. Evaluations per image and level: 1 with gradient; 1 of the
    teacher (2 with guidance); and of the network's first two thirds 1 with gradient for the student's answer and 1 for
    the real image. One evaluation more in the first step, which finds out the features' sizes.
    """
    rollout, guidance = with_fresh_noise(rollout, policy), settings.guidance or rollout.guidance
    beside = Beside(DISCRIMINATOR, partial(new_heads, rollout=rollout),
                    Optimizer(learning_rate=settings.discriminator_rate, max_grad_norm=0.0))

    def evaluate(net: Network, bank: Bank, duel: Duel, heads: Bank):
        judge = Judge(net, rollout, duel.judge, heads)
        x0 = Question(net, rollout, duel.student).ask(bank)
        fake, looked_at = judge.fake(x0)
        coefficient = trust(net.path, duel.teacher.sigma.to(x0))
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
    sigma = micro.sigma.to(x0)
    x = net.path.add_noise(x0, micro.noise.to(x0), sigma)
    return net.denoise(x, sigma, rollout.prompts, rollout.index[micro.rows], guidance, None,
                       schedule=rollout.sigmas)


class Judge:
    """The discriminator before one micro-batch; real and fake are looked at under the same noise."""

    def __init__(self, net: Network, rollout: Rollout, micro: Noised, heads: Bank):
        self.net, self.rollout, self.micro, self.heads = net, rollout, micro, heads
        self.blocks = feature_blocks(net)

    def fake(self, x0: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """(logits [B, H] whose gradient reaches ``x0`` and not the heads, what the heads saw)."""
        fixed, features = {key: value.detach() for key, value in self.heads.items()}, {}
        return self._look(x0, lambda name, tokens: logit(fixed, name, tokens), features), features

    def loss(self, fake: dict, r1_weight: float) -> DiscriminatorLoss:
        """The heads' own loss; fake: what they saw in the student's answers."""
        real: dict[str, list[torch.Tensor]] = {}
        with torch.no_grad():
            self._look(self.rollout.latents[self.micro.rows].to(self.net.device), lambda _, tokens: tokens[:, :1, 0], real)
        logits, penalties = [], []
        for name, groups in real.items():
            for tokens in groups:
                tokens.requires_grad_(True)
                logits.append(logit(self.heads, name, tokens))
                penalties.append(r1_penalty(logits[-1], tokens))
        fooled = torch.cat([logit(self.heads, name, tokens) for name, groups in fake.items() for tokens in groups])
        return discriminator_loss(torch.cat(logits), fooled, torch.cat(penalties), r1_weight)

    def _look(self, x0: torch.Tensor, see: Callable, features: dict[str, list[torch.Tensor]]) -> torch.Tensor:
        sigma = self.micro.sigma.to(x0)

        def look(block: str, parts: list[torch.Tensor]) -> torch.Tensor:
            answers = []
            for name, tokens in named(block, parts):
                features.setdefault(name, []).append(tokens.detach())
                answers.append(see(name, tokens))
            return torch.cat(answers, 1)

        x = self.net.path.add_noise(x0, self.micro.noise.to(x0), sigma)
        return seen(self.net, self.blocks, x, sigma, self.rollout.prompts, self.rollout.index[self.micro.rows], look)


def named(block: str, parts: list[torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    """A block's outputs by name, each [B, T, F], every position normalised."""
    return [(f"{block}.{number}", F.layer_norm(part, part.shape[-1:])) for number, part in enumerate(parts)]


def logit(heads: Bank, name: str, tokens: torch.Tensor) -> torch.Tensor:
    """[B, 1]: the verdict of one head on tokens [B, T, F], the mean over positions; above 0 means real."""
    hidden = F.silu(F.linear(tokens, heads[f"{name}.in.weight"], heads[f"{name}.in.bias"]))
    return F.linear(hidden, heads[f"{name}.out.weight"]).mean(1)


def new_heads(net: Network, rollout: Rollout) -> Bank:
    """Heads for every output of the network's feature blocks, float32 in RAM."""
    widths: dict[str, int] = {}

    def look(block: str, parts: list[torch.Tensor]) -> torch.Tensor:
        widths.update({name: tokens.shape[-1] for name, tokens in named(block, parts)})
        return parts[0][:, :1, 0]

    sigma = sigma_at(net.path, torch.full((1,), 0.5)).to(net.device)
    seen(net, feature_blocks(net), rollout.latents[:1].to(net.device), sigma, rollout.prompts, rollout.index[:1], look)
    random, heads = generator(0, 17), {}
    for name, width in widths.items():
        heads |= {f"{name}.in.weight": torch.randn(HIDDEN, width, generator=random) / width**0.5,
                  f"{name}.in.bias": torch.zeros(HIDDEN),
                  f"{name}.out.weight": torch.randn(1, HIDDEN, generator=random) / HIDDEN**0.5}
    return heads


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

    return [[Duel(micro, redrawn(rollout, micro, level % settings.levels, teacher, 18),
                  redrawn(rollout, micro, level % settings.levels, judge, 19))
             for level, micro in enumerate(micros)] for micros in steps]


def student_grid(policy: Policy, steps: int) -> torch.Tensor:
    """[steps]: the noise levels at which a sampler of that many steps asks the network."""
    return sigmas_of(policy.model.get_model_object("model_sampling"), "simple", steps)[:-1]


def redrawn(rollout: Rollout, micro: Noised, level: int, sigma_of: Callable, key: int) -> Noised:
    """The same samples at new noise levels ``sigma_of(generator)`` with new noise."""
    draws = []
    for row in micro.rows.tolist():
        random = generator(rollout.iteration, int(rollout.seeds[row]), level, key)
        draws.append((sigma_of(random), torch.randn(rollout.latents.shape[1:], generator=random)))
    return Noised(micro.rows, torch.stack([sigma for sigma, _ in draws]), torch.stack([noise for _, noise in draws]),
                  micro.first)
