"""The steps of a sampler: noise levels, and which of them are random."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from ...rewards.base.words import brief
from ..noise.paths import Path
from ..noise.transitions import Transition, deterministic, transition_named
from ..policy.levels import ModelLevels
from ..policy.network import Network
from .settings import Sampling, noisy_range, resolved_transition

TOO_NOISY = 1.5  # times the noise that a state may hold; the papers' own settings reach 1.45 (flow_sde at 0.9, 6 steps)


@dataclass(frozen=True)
class SamplingPlan:
    """The steps of a sampler. sigmas: [steps + 1]; noisy: (first, end) of the random ones; transition, strength: their
    kind; noisy_step, quiet_step: the transitions themselves; left_out: steps of the window that are not random, because the
    schedule cannot pay for their noise."""

    sigmas: torch.Tensor
    noisy: tuple[int, int]
    transition: str
    strength: float
    noisy_step: Callable
    quiet_step: Callable
    left_out: int = 0
    __repr__ = brief

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1


def plan_of(net: Network | ModelLevels, sampling: Sampling, iteration: int) -> SamplingPlan:
    """Which step is taken how, in this iteration. ValueError where no step of the window can be random."""
    name, strength = resolved_transition(sampling, net.path.name)
    step = transition_named(name, strength, net.path)
    sigmas = net.sigmas(sampling.scheduler, sampling.steps)
    if name == "deterministic" or strength == 0:
        return SamplingPlan(sigmas, (0, 0), name, strength, step, deterministic())
    counted = replace(sampling, steps=len(sigmas) - 1)
    first, end = noisy_range(counted, iteration)
    noisy = noisy_range(counted, iteration, payable_steps(net.path, step, sigmas))
    return SamplingPlan(sigmas, noisy, name, strength, step, deterministic(), (end - first) - (noisy[1] - noisy[0]))


def payable_steps(path: Path, step: Transition, sigmas: torch.Tensor) -> tuple[int, int]:
    """(first, end) of the longest run of steps after which a state holds about as much noise as its level says.

    sigmas: [steps + 1]. The score and the step's own noise do not cancel where a step is long for where it ends: with a
    network without error flow_sde leaves 1.0 to 1.25 times the noise of sigma_next on a "simple" schedule, and 20 to 400
    times on one whose last level but one is nearly 0. Nothing that follows takes that noise away.
    """
    good = (noise_after(path, step, sigmas[:-1], sigmas[1:]) <= TOO_NOISY).tolist()
    runs, at = [], 0
    for payable, members in groupby(good[:-1]):
        count = len(list(members))
        runs += [(at, at + count)] if payable else []
        at += count
    return max(runs, key=lambda run: run[1] - run[0], default=(0, 0))


def noise_after(path: Path, step: Transition, sigma: torch.Tensor, sigma_next: torch.Tensor) -> torch.Tensor:
    """[N]: noise in the state after each step, as a share of what a state at sigma_next holds, if the network makes no error.

    sigma > sigma_next: [N]. The clean image is taken as 0 and its noise as 1, so that the mean is the noise that is kept.
    """
    sigma, sigma_next = sigma.double(), sigma_next.double()
    noise = sigma.reshape(-1, 1)
    taken = step(path, noise, torch.zeros_like(noise), sigma, sigma_next)
    return (taken.mean[:, 0].square() + taken.std.square()).sqrt() / sigma_next


def usual_noise(path: Path, step: Transition, sigmas: torch.Tensor) -> torch.Tensor:
    """[S]: the std of every step of this schedule that may be random, whichever of them are in an iteration."""
    first, end = payable_steps(path, step, sigmas)
    zero = torch.zeros(end - first, 1, device=sigmas.device)
    return step(path, zero, zero, sigmas[first:end], sigmas[first + 1:end + 1]).std
