"""ReFL (arXiv:2304.05977): the reward's gradient through the clean estimate of one late step."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .engine.cost import Train, Work
from .engine.limits import ABOVE_0, ANY, FROM_0, FROM_0_TO_1
from .engine.renoise import Noised, Renoised
from .engine.reward_walk import Course, Look, Walk, known
from .engine.update import Optimizer, numbers
from .losses.refl import refl_loss
from .noise.streams import Stream, generator
from .policy.network import Network
from .policy.value import Bank, Policy


@dataclass(frozen=True)
class ReFL:
    """ReFL (arXiv:2304.05977). earliest, latest: part of the way, 0 to 1, between which the one step with gradient is
    drawn; margin: rewards from here on give no gradient; scale: factor of the reward's loss; pretrain_weight: weight of
    the denoising error on finished images."""

    LIMITS: ClassVar[dict] = {"earliest": FROM_0_TO_1, "latest": FROM_0_TO_1, "margin": ANY, "scale": ABOVE_0,
                              "pretrain_weight": FROM_0}
    earliest: float = 0.75
    latest: float = 1.0
    margin: float = 2.0
    scale: float = 1e-3
    pretrain_weight: float = 0.0


def train_refl(policy: Policy, course: Course, settings: ReFL, optimizer: Optimizer) -> Policy:
    """A ReFL step: to a random late step without gradient, and one call with it, whose clean estimate is judged."""
    if not 0 <= settings.earliest <= settings.latest <= 1:
        raise ValueError(f"earliest, latest: {settings.earliest:g} and {settings.latest:g} must lie between 0 and 1, the "
                         "earliest first")
    if settings.pretrain_weight and course.data is None:
        raise ValueError("pretraining images: the pretraining weight is above 0, but no images are connected; connect a "
                         "Rollout from Latents with good images to Train Step (through the reward), or set it to 0")

    def evaluate(net: Network, bank: Bank, look: Look):
        walk = Walk(course, net, bank, look)
        walk.go_quietly_to(_middle(settings, course.steps, course.draw(look)))
        rewards, *_ = known(walk.rewards(walk.denoised()))
        error = _denoising_error(walk) if settings.pretrain_weight else None
        out = refl_loss(rewards, settings.margin, settings.scale, error, settings.pretrain_weight)
        report = {} if error is None else numbers(denoising_error=error.mean())
        return out.loss, report | numbers(saturated=out.saturated)

    return course.train(policy, evaluate, optimizer)


def _middle(settings: ReFL, total: int, random: torch.Generator) -> int:
    """The step with gradient: for 40 steps and the usual settings 30 to 39, as in the official code."""
    first = min(int(settings.earliest * total), total - 1)
    end = max(first + 1, min(total, round(settings.latest * total)))
    return first + int(torch.randint(end - first, (), generator=random))


def _denoising_error(walk: Walk) -> torch.Tensor:
    """[B]: the loss of pretraining, on as many of the given images as the micro-batch has samples."""
    course, data = walk.course, walk.course.data
    random = generator(course.sampling.seed, course.iteration, walk.look.rows.start, Stream.PRETRAINING)
    rows = torch.randint(len(data.index), (walk.look.size,), generator=random)
    levels = torch.randint(len(walk.plan.sigmas) - 1, (len(rows),), generator=random)
    noise = torch.randn((len(rows), *data.latents.shape[1:]), generator=random)
    renoised = Renoised(walk.net, data, Noised(rows, walk.plan.sigmas[levels], noise, first=False))
    return renoised.error(renoised.ask(walk.bank))


def refl_cost(settings: ReFL, work: Work) -> Train:
    """To the latest step that may be drawn, and the pretraining's own evaluations."""
    last = max(min(int(settings.earliest * work.steps), work.steps - 1) + 1, min(work.steps, round(settings.latest * work.steps)))
    gradient, _ = work.walked(last - work.steps)
    return gradient + (work.images if settings.pretrain_weight else 0), 0
