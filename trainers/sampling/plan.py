"""The steps of a sampler: noise levels, and which of them are random."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ...rewards.base.words import brief
from ..noise.transitions import deterministic, transition_named
from ..policy.network import Network
from .settings import Sampling, noisy_range, resolved_transition


@dataclass(frozen=True)
class SamplingPlan:
    """The steps of a sampler. sigmas: [steps + 1]; noisy: (first, end) of the random ones; transition, strength: their
    kind; noisy_step, quiet_step: the transitions themselves."""

    sigmas: torch.Tensor
    noisy: tuple[int, int]
    transition: str
    strength: float
    noisy_step: Callable
    quiet_step: Callable
    __repr__ = brief

    @property
    def steps(self) -> int:
        return len(self.sigmas) - 1


def plan_of(net: Network, sampling: Sampling, iteration: int) -> SamplingPlan:
    """Which step is taken how, in this iteration."""
    name, strength = resolved_transition(sampling, net.path.name)
    step = transition_named(name, strength, net.path)
    quiet = name == "deterministic" or strength == 0
    sigmas = net.sigmas(sampling.scheduler, sampling.steps)
    noisy = (0, 0) if quiet else noisy_range(replace(sampling, steps=len(sigmas) - 1), iteration)
    return SamplingPlan(sigmas, noisy, name, strength, step, deterministic())
