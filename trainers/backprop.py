"""Trainers that follow the reward's own gradient back through the sampler: DRaFT, AlignProp, ReFL, DRTune.

Each makes its own images inside the step. Every network call that gradient passes is recomputed in the backward pass,
so the memory is that of one call however many steps carry gradient. SRPO is in direct_align.py.
"""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from .forward_process import Noised, Question
from .limits import ABOVE_0, ANY, FROM_0, FROM_0_TO_1, FROM_1
from .losses.draft import alignprop_loss, draft_loss
from .losses.refl import RewardLoss, refl_loss
from .policy.network import Network
from .policy.value import Bank, Policy
from .reward_walk import Course, Look, Walk, known
from .sampling import generator
from .update import Optimizer

TRUNCATIONS = ("gaussian", "uniform")
HIGHEST = "highest_mean_reward"


@dataclass(frozen=True)
class DRaFT:
    """DRaFT-K (arXiv:2309.17400). steps: K, the last steps that carry gradient, 0 for all; extra_noises: n of DRaFT-LV,
    further looks at the last step with fresh noise; kl_weight: DRaFT+'s pull to the reference at those steps."""

    LIMITS: ClassVar[dict] = {"steps": FROM_0.of("back-propagated steps"), "extra_noises": FROM_0, "kl_weight": FROM_0}
    steps: int = 1
    extra_noises: int = 0
    kl_weight: float = 0.0


@dataclass(frozen=True)
class AlignProp:
    """AlignProp (arXiv:2310.03739). truncation: how the number of steps with gradient is drawn, see ``_truncated``;
    target: rewards are pulled to this value, None: up without bound; coefficient: factor of the loss; stop_at: mean
    reward of an iteration at which the run ends, None: never."""

    LIMITS: ClassVar[dict] = {"target": ANY, "coefficient": ABOVE_0, "stop_at": ANY}
    truncation: str = "gaussian"
    target: float | None = None
    coefficient: float = 0.01
    stop_at: float | None = None


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


@dataclass(frozen=True)
class DRTune:
    """DRTune (arXiv:2405.00760). steps: K, evenly spaced steps that are trained; early_stop: how many of the last steps
    may be left out, by chance."""

    LIMITS: ClassVar[dict] = {"steps": FROM_1.of("trained steps"), "early_stop": FROM_0}
    steps: int = 3
    early_stop: int = 2


def train_draft(policy: Policy, course: Course, settings: DRaFT, optimizer: Optimizer) -> Policy:
    """A DRaFT step. Evaluations per image: T, one more for each extra noise, one more per step with gradient where
    kl_weight is above 0."""
    total = course.steps
    count = _checked_count("back-propagated steps", settings.steps or total, total)
    if settings.extra_noises and count != 1:
        raise ValueError(f"extra noises: they belong to the last step alone, but {count} steps carry gradient; set the "
                         "back-propagated steps to 1, or the extra noises to 0")
    finished: dict[int, torch.Tensor] = {}

    def evaluate(net: Network, bank: Bank, look: Look):
        walk, drifts = Walk(course, net, bank, look), []
        watch = (lambda x0: drifts.append(walk.drift(x0))) if settings.kl_weight else None
        if look.part:
            _noise_again(walk, finished[look.rows.start])
        else:
            _quietly_to(walk, total - count)
        walk.go_to(total, watch)
        if not look.part:
            finished[look.rows.start] = walk.x.detach()
        rewards = walk.rewards(walk.x, note=look.part == 0)
        drift = torch.stack(drifts).mean(0) if drifts else torch.zeros_like(rewards)
        out = draft_loss(*known(rewards, drift), settings.kl_weight)
        return out.loss, {"kl": float(drift.detach().mean())} if drifts else {}

    return course.train(policy, evaluate, optimizer, parts=1 + settings.extra_noises)


def train_alignprop(policy: Policy, course: Course, settings: AlignProp, optimizer: Optimizer) -> Policy:
    """An AlignProp step. Once an iteration's mean reward has reached stop_at, "early_stopped" is 1 and the run ends; in a
    loop that goes on all the same, images are made and scored, but the policy rests."""
    if settings.truncation not in TRUNCATIONS:
        raise ValueError(f"truncation: unknown {settings.truncation!r}; use one of {', '.join(TRUNCATIONS)}")
    highest = policy.memory.get(HIGHEST)
    def reached(reward: float | None) -> bool:
        return settings.stop_at is not None and reward is not None and reward >= settings.stop_at

    if reached(highest):
        rested = course.only_look(policy)
        return replace(rested, metrics={**rested.metrics, "early_stopped": 1})
    total = course.steps

    def evaluate(net: Network, bank: Bank, look: Look):
        walk, count = Walk(course, net, bank, look), _truncated(settings.truncation, total, course.draw(look))
        _quietly_to(walk, total - count)
        walk.go_to(total)
        out = alignprop_loss(*known(walk.rewards(walk.x)), settings.target, settings.coefficient)
        return out.loss, _report(out) | {"backpropagated_steps": count}

    new = course.train(policy, evaluate, optimizer)
    mean = course.stats()["reward_mean"]
    best = mean if highest is None or mean > highest else highest
    # a mean that is no number (every reward failed) is not remembered
    memory = {**policy.memory, HIGHEST: best} if best == best else policy.memory
    return replace(new, memory=memory, metrics={**new.metrics, "early_stopped": int(reached(mean))})


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
        _quietly_to(walk, _middle(settings, course.steps, course.draw(look)))
        rewards, *_ = known(walk.rewards(walk.denoised()))
        error = _denoising_error(walk) if settings.pretrain_weight else None
        out = refl_loss(rewards, settings.margin, settings.scale, error, settings.pretrain_weight)
        return out.loss, _report(out) | ({} if error is None else {"denoising_error": float(error.detach().mean())})

    return course.train(policy, evaluate, optimizer)


def train_drtune(policy: Policy, course: Course, settings: DRTune, optimizer: Optimizer) -> Policy:
    """A DRTune step: the network's input is cut off from the gradient at every step, its output is not."""
    total = course.steps
    _checked_count("trained steps", settings.steps, total)
    if not 0 <= settings.early_stop < total:
        raise ValueError(f"early stop: {settings.early_stop} of {total} sampling steps cannot be left out; choose 0 to "
                         f"{total - 1}")

    def evaluate(net: Network, bank: Bank, look: Look):
        walk, random = Walk(course, net, bank, look), course.draw(look)
        last = total - 1 - int(torch.randint(settings.early_stop + 1, (), generator=random))
        out = draft_loss(*known(walk.rewards(tuned(walk, spaced(settings.steps, last, random), last))))
        return out.loss, {}

    return course.train(policy, evaluate, optimizer)


def tuned(walk: Walk, trained: set[int], last: int) -> torch.Tensor:
    """The clean estimate at step ``last``, with gradient from the predictions of the ``trained`` steps.

    The state stays a linear function of every prediction, so each receives the reward's gradient times a known factor:
    minus the step's length in sigma for flow and noise prediction.
    """
    while True:
        state, sigma, path = walk.x.detach(), walk.sigma(walk.at), walk.net.path
        with torch.set_grad_enabled(torch.is_grad_enabled() and walk.at in trained):
            prediction = path.prediction(state, walk.denoised(state), sigma)
        x0 = path.x0(walk.x, prediction, sigma)
        if walk.at == last:
            return x0
        walk.move(x0)


def spaced(count: int, last: int, random: torch.Generator) -> set[int]:
    """``count`` evenly spaced steps of 0 to ``last`` (all where there are not more), from a random first one."""
    count = min(count, last + 1)
    stride = (last + 1) // count
    first = int(torch.randint(last + 1 - (count - 1) * stride, (), generator=random))
    return {first + k * stride for k in range(count)}


def _quietly_to(walk: Walk, step: int) -> None:
    with torch.no_grad():
        walk.go_to(step)


def _noise_again(walk: Walk, latents: torch.Tensor) -> None:
    """Puts finished latents back to the state before the last step, with fresh noise."""
    walk.at = walk.course.steps - 1
    noise = walk.course.fresh_noise(walk.look).to(latents.device)
    walk.x = walk.net.path.add_noise(latents, noise, walk.sigma(walk.at))


def _truncated(kind: str, total: int, random: torch.Generator) -> int:
    """How many of the last steps carry gradient, 1 to ``total``. gaussian: the official mean and deviation of the cut,
    42 and 5 of 50 steps, scaled to ``total``; uniform: any number is as likely."""
    if kind == "uniform":
        cut = int(torch.randint(total, (), generator=random))
    else:
        cut = round(total * (0.84 + 0.1 * float(torch.randn((), generator=random))))
    return total - min(max(cut, 0), total - 1)


def _middle(settings: ReFL, total: int, random: torch.Generator) -> int:
    """The step with gradient: for 40 steps and the usual settings 30 to 39, as in the official code."""
    first = min(int(settings.earliest * total), total - 1)
    end = max(first + 1, min(total, round(settings.latest * total)))
    return first + int(torch.randint(end - first, (), generator=random))


def _denoising_error(walk: Walk) -> torch.Tensor:
    """[B]: the loss of pretraining, on as many of the given images as the micro-batch has samples."""
    course, data = walk.course, walk.course.data
    random = generator(course.sampling.seed, course.iteration, walk.look.rows.start, 10)
    rows = torch.randint(len(data.index), (walk.look.size,), generator=random)
    levels = torch.randint(len(walk.plan.sigmas) - 1, (len(rows),), generator=random)
    noise = torch.randn((len(rows), *data.latents.shape[1:]), generator=random)
    question = Question(walk.net, data, Noised(rows, walk.plan.sigmas[levels], noise, first=False))
    return question.error(question.ask(walk.bank))


def _report(out: RewardLoss) -> dict[str, float]:
    return {"saturated": float(out.saturated)}


def _checked_count(name: str, count: int, total: int) -> int:
    if not 1 <= count <= total:
        raise ValueError(f"{name}: {count} is not possible with {total} sampling steps; choose 1 to {total}, or more "
                         "sampling steps")
    return count
