"""DiffusionOPD (arXiv:2605.15055): several trained LoRAs merged into one policy, each teaching the prompts that it is good at.

The student is asked at the states of its own way from noise to picture, and so learns what to do where it really comes. A
teacher is a LoRA on the model under the policy. Of the rollout only prompts, guidance and schedule count, and the states of
its random steps where it has some: without them the student walks again, without gradient.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch

from ..rewards.base.words import brief, shown
from .engine.cost import Train, Work, branches
from .engine.limits import FROM_0, check_limits
from .engine.update import Optimizer, numbers, update
from .feedback.fits import Feedback
from .losses.diffusion_opd import OPDLoss, domains, opd_loss
from .noise.streams import Stream, generator
from .noise.transitions import Gaussian, Transition, deterministic, transition_named
from .policy.from_lora import read_lora
from .policy.levels import path_of
from .policy.network import Network, open_policy
from .policy.uploads import uploaded
from .policy.value import Bank, Guest, Policy
from .sampling.rollout import Rollout

WEIGHTINGS = ("predictions", "step means", "exact KL")


@dataclass(frozen=True)
class Teacher:
    """name: for messages; lora: a file's tensors by name, metadata: the file's; or policy: a trained one on the same MODEL.
    words: a prompt that holds one of them is this teacher's, none: every prompt that no other teacher's words are in;
    guidance: its scale, 0: the one that the rollout was sampled with."""

    LIMITS: ClassVar[dict] = {"guidance": FROM_0}
    name: str
    lora: Mapping[str, torch.Tensor] | None = None
    metadata: Mapping[str, str] | None = None
    policy: Policy | None = None
    words: tuple[str, ...] = ()
    guidance: float = 0.0
    __repr__ = brief


@dataclass(frozen=True)
class DiffusionOPD:
    """DiffusionOPD (arXiv:2605.15055). weighting: what student and teacher are compared by: the network's predictions, which
    weighs all steps alike; the means of the sampler's steps, as the official code; or their exact KL, for random steps."""

    LIMITS: ClassVar[dict] = {}
    CHOICES: ClassVar[dict] = {"weighting": WEIGHTINGS}
    weighting: str = WEIGHTINGS[0]
    teachers: tuple[Teacher, ...] = ()
    __repr__ = brief


@dataclass(frozen=True)
class Visit:
    """One step of some samples: rows of the rollout, the step, [n] which teacher each has."""

    rows: slice
    step: int
    teacher: torch.Tensor
    __repr__ = brief

    @property
    def size(self) -> int:
        return len(self.teacher)


@dataclass(frozen=True)
class Way:
    """The states that the student has been in: [B, S, C, H, W] in RAM; sigmas: [S + 1]; transition: of its steps; evaluations:
    that the way there has cost beside the rollout."""

    states: torch.Tensor
    sigmas: torch.Tensor
    transition: Transition
    evaluations: int = 0
    __repr__ = brief


def train_opd(
    policy: Policy,
    rollout: Rollout,
    feedback: Feedback | None,
    settings: DiffusionOPD,
    optimizer: Optimizer,
    progress: Callable | None = None,
) -> Policy:
    """A DiffusionOPD step. Evaluations per image and step but the last: 1 with gradient, 1 of its teacher, and without a
    trajectory 1 of the student's walk; each twice with guidance. ValueError names the teacher that does not fit."""
    if settings.weighting not in WEIGHTINGS:
        raise ValueError(f"weighting: unknown {settings.weighting!r}; use one of {', '.join(WEIGHTINGS)}")
    if settings.weighting == "exact KL":
        rollout.random_steps()
    for teacher in settings.teachers:
        check_limits(teacher)
    fits = fitting(
        tuple(teacher.words for teacher in settings.teachers), tuple(prompt.text for prompt in rollout.prompts.prompts)
    )
    guests = [guest_of(policy, teacher) for teacher in settings.teachers]
    way = walked(policy, rollout)

    def evaluate(net: Network, bank: Bank, visit: Visit):
        out = compared(net, bank, rollout, way, visit, settings)
        return out.loss, numbers(teacher_error=out.error)

    new = update(policy, visits(rollout, way, fits, optimizer.updates), evaluate, optimizer, progress=progress, guests=guests)
    made = new.metrics["update_evaluations"] + way.evaluations
    return replace(new, metrics={**new.metrics, "update_evaluations": made})


def opd_cost(settings: DiffusionOPD, work: Work) -> Train:
    """The student and its teacher in every random step, or, without those, on a walk of the student's own."""
    once = work.images * (work.random or max(1, work.steps - 1))
    teacher = max((branches(teacher.guidance or work.guidance) for teacher in settings.teachers), default=1)
    return work.branches * once, (teacher + (0 if work.random else work.branches)) * once


def compared(net: Network, bank: Bank, rollout: Rollout, way: Way, visit: Visit, settings: DiffusionOPD) -> OPDLoss:
    """The loss of one micro-batch."""
    x, index = uploaded(way.states[visit.rows, visit.step], net.device), rollout.index[visit.rows]
    sigma, sigma_next = (uploaded(way.sigmas[k], x.device, x.dtype).expand(len(x)) for k in (visit.step, visit.step + 1))

    def ask(rows: torch.Tensor, guidance: float, weights: Bank) -> torch.Tensor:
        there = uploaded(rows, x.device)
        return net.denoise(x[there], sigma[there], rollout.prompts, index[rows], guidance, weights, schedule=rollout.sigmas)

    student = ask(torch.arange(len(x)), rollout.guidance, bank)
    goal = torch.empty_like(x)
    with torch.no_grad():
        for number in visit.teacher.unique().tolist():
            rows = (visit.teacher == number).nonzero().flatten()
            goal[uploaded(rows, x.device)] = ask(
                rows, settings.teachers[number].guidance or rollout.guidance, net.guests[number]
            )
    if settings.weighting == "predictions":
        return opd_loss(*(net.path.prediction(x, x0, sigma) for x0 in (student, goal)))
    now, wanted = (way.transition(net.path, x, x0, sigma, sigma_next) for x0 in (student, goal))
    return opd_loss(now.mean, wanted.mean, now.std.square() if settings.weighting == "exact KL" else None)


def visits(rollout: Rollout, way: Way, fits: torch.Tensor, updates: int) -> list[list[Visit]]:
    """Micro-batches of each update: the rollout's own batches in random order, each at every step but the last."""
    key = (rollout.iteration, int(rollout.seeds[0]))
    draws = torch.rand(len(rollout.index), generator=generator(*key, Stream.TEACHER_OF_SAMPLE))
    teacher = domains(rollout.index, fits, draws)
    starts = torch.arange(0, len(rollout.index), rollout.batch_size)
    starts = starts[torch.randperm(len(starts), generator=generator(*key, Stream.REPLAY_ORDER))]
    parts = [starts[k::updates].tolist() for k in range(min(updates, len(starts)))]
    return [
        [
            Visit(rows, step, teacher[rows])
            for at in part
            for rows in [slice(at, at + rollout.batch_size)]
            for step in range(way.states.shape[1])
        ]
        for part in parts
    ]


def walked(policy: Policy, rollout: Rollout) -> Way:
    """Where the student was in this rollout, or, without random steps, where a deterministic sampler
    takes it from new noise."""
    if rollout.trajectory is not None:
        there = rollout.trajectory
        path = path_of(policy.model.get_model_object("model_sampling"))
        return Way(there.states[:, :-1], there.sigmas, transition_named(there.transition, there.strength, path))
    step, count = deterministic(), max(1, len(rollout.sigmas) - 2)
    states = torch.empty(len(rollout.index), count, *rollout.latents.shape[1:])
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank)
        for at in range(0, len(states), rollout.batch_size):
            rows = slice(at, at + rollout.batch_size)
            x = net.start(_noise(rollout, rows).to(net.device), float(rollout.sigmas[0]))
            for k in range(count):
                states[rows, k] = x.cpu()
                x = _next(net, bank, rollout, rows, step, x, k).mean
        evaluations = net.evaluations
    return Way(states, rollout.sigmas[: count + 1], step, evaluations)


def _noise(rollout: Rollout, rows: slice) -> torch.Tensor:
    """New in each iteration, also where the rollout is the same one."""
    shape = rollout.latents.shape[1:]
    return torch.stack(
        [torch.randn(shape, generator=generator(rollout.iteration, int(seed), Stream.OWN_WALK)) for seed in rollout.seeds[rows]]
    )


def _next(net: Network, bank: Bank, rollout: Rollout, rows: slice, step: Transition, x: torch.Tensor, k: int) -> Gaussian:
    sigma, sigma_next = (rollout.sigmas[place].to(x).expand(len(x)) for place in (k, k + 1))
    x0 = net.denoise(x, sigma, rollout.prompts, rollout.index[rows], rollout.guidance, bank, schedule=rollout.sigmas)
    return step(net.path, x, x0, sigma, sigma_next)


def guest_of(policy: Policy, teacher: Teacher) -> Guest:
    """The teacher's weights as the network can lay them over itself. ValueError where it was made for another model."""
    if teacher.policy is not None:
        same = teacher.policy.model.is_clone(policy.model)
        if not same or teacher.policy.model.patches_uuid != policy.model.patches_uuid:
            raise ValueError(
                f"teacher: {teacher.name} is a policy on another MODEL than the student's; connect the same MODEL "
                "to both Create Policy nodes, or save the teacher's LoRA and choose its file"
            )
        return Guest(teacher.policy.members(), teacher.policy.weights())
    found = read_lora(policy.model, teacher.lora or {}, metadata=teacher.metadata, field=f"teacher: {teacher.name}")
    return Guest(found.members, found.bank)


@lru_cache(maxsize=2)  # of the same prompts in every iteration
def fitting(words: tuple[tuple[str, ...], ...], prompts: tuple[str, ...]) -> torch.Tensor:
    """[P, K] bool: which teachers a prompt may have, by their words. ValueError where there is none."""
    if not words:
        raise ValueError("teacher: none is connected; connect the node LoRA Teacher, one for each LoRA that you want to merge")
    named = torch.tensor([[_holds(prompt, own) for own in words] for prompt in prompts])
    rest = torch.tensor([not own for own in words])
    fits = torch.where(named.any(1, keepdim=True), named, rest)
    if not bool(fits.any(1).all()):
        first = prompts[int((~fits.any(1)).nonzero()[0])]
        raise ValueError(
            f"teacher: the prompt {shown(first)} holds no teacher's words, and every teacher has some; give a "
            "teacher one of its words, or leave one teacher's words empty: it takes the rest"
        )
    return fits


def _holds(prompt: str, words: tuple[str, ...]) -> bool:
    """Whole words, however they are written; in scripts without spaces, anywhere."""
    bounded = (rf"(?<!\w){re.escape(word)}(?!\w)" if word.isascii() else re.escape(word) for word in words)
    return any(re.search(each, prompt, re.IGNORECASE) for each in bounded)
