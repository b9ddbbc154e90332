"""The random steps of a rollout, and how they are kept while it is sampled."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...rewards.base.words import brief
from ..noise.transitions import TRANSITIONS, Gaussian, log_prob
from .plan import SamplingPlan


@dataclass(frozen=True)
class Trajectory:
    """The random steps of a rollout, S of them, in RAM, float32.

    states: [B, S + 1, C, H, W], the state before each step and after the last; log_probs: [B, S] under the policy
    that sampled; means: [B, S, C, H, W], None where nobody asked to keep them; sigmas: [S + 1];
    transition, strength: which step, see transitions.py. chosen: [B, S] bool, which of the steps are random for which sample,
    None: all; the others have no likelihood.
    """

    states: torch.Tensor
    log_probs: torch.Tensor
    means: torch.Tensor | None
    sigmas: torch.Tensor
    transition: str
    strength: float
    chosen: torch.Tensor | None = None
    __repr__ = brief

    def random(self, rows: slice | torch.Tensor, step: int | torch.Tensor) -> torch.Tensor:
        """[n] bool: for which of the samples this step is random."""
        chosen = torch.ones(self.log_probs.shape, dtype=torch.bool) if self.chosen is None else self.chosen
        return chosen[rows, step]

    @property
    def steps(self) -> int:
        return self.log_probs.shape[1]

    @property
    def branch(self) -> torch.Tensor:
        """[B]: the first random step of each sample, counted from 0; where it has one, that one."""
        return torch.zeros(len(self.log_probs), dtype=torch.int64) if self.chosen is None else self.chosen.int().argmax(1)


class StepsKept:
    """What random steps leave behind, of all samples in one tensor each, made once: lists that are joined in the end need twice
    as much. values: by the names of a Trajectory."""

    def __init__(self, count: int, plan: SamplingPlan, keep_means: bool, own: torch.Tensor | None = None):
        """own: [B] the one random step of each sample, None: all of the plan's."""
        self.own = own
        self._count, self._steps, self._plan = count, plan.noisy[1] - plan.noisy[0], plan
        self._keep_means = keep_means
        self.values: dict[str, torch.Tensor] = {}

    def keep(self, rows: torch.Tensor | slice, i: int, x: torch.Tensor, step: Gaussian, reached: torch.Tensor) -> None:
        """The sampler's step number i, of these samples: from x [B, C, H, W] to what it reached."""
        at = i - self._plan.noisy[0]
        if not at:
            self._put("states", rows, 0, x)
        self._put("states", rows, at + 1, reached)
        self._put("log_probs", rows, at, log_prob(reached, step, TRANSITIONS[self._plan.transition].form))
        if self._keep_means:
            self._put("means", rows, at, step.mean)

    def pass_by(self, rows: torch.Tensor | slice, i: int, x: torch.Tensor, reached: torch.Tensor) -> None:
        """The sampler's step number i, from x [B, C, H, W] to what it reached, which was taken once for these samples and others,
        before they parted: it is not random, so that its likelihood and mean, which nobody reads, are 0."""
        at, nothing = i - self._plan.noisy[0], torch.zeros(())
        if not at:
            self._put("states", rows, 0, x)
        self._put("states", rows, at + 1, reached)
        self._put("log_probs", rows, at, nothing.expand(len(x)))
        if self._keep_means:
            self._put("means", rows, at, nothing.expand(x.shape))

    def _put(self, name: str, rows: torch.Tensor | slice, at: int, value: torch.Tensor) -> None:
        if name not in self.values:
            self.values[name] = torch.empty(self._count, self._steps + (name == "states"), *value.shape[1:], dtype=value.dtype)
        self.values[name][rows, at] = value.cpu()

    def trajectory(self) -> Trajectory | None:
        """None where no step was random."""
        if not self._steps:
            return None
        first, end = self._plan.noisy
        chosen = None if self.own is None else self.own[:, None] == torch.arange(first, end)
        return Trajectory(
            chosen=chosen,
            states=self.values["states"],
            log_probs=self.values["log_probs"],
            means=self.values.get("means"),
            sigmas=self._plan.sigmas[first : end + 1],
            transition=self._plan.transition,
            strength=self._plan.strength,
        )
