"""SPO (arXiv:2406.04314): learns from pairs of candidates for one and the same step."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from .engine.dealt import dealt
from .engine.limits import ABOVE_0, INSIDE_0_1
from .engine.step_pairs import PairSteps, step_numbers, with_reference
from .engine.update import Optimizer, update
from .feedback.step_pairs import StepPreferences
from .losses.spo import spo_loss
from .noise.streams import Stream, generator
from .noise.transitions import TRANSITIONS, log_prob, transition_named
from .policy.levels import path_of
from .policy.uploads import uploaded
from .policy.value import Policy
from .sampling.rollout import Rollout, Trajectory

WEIGHTINGS = ("all steps alike", "by noise")


@dataclass(frozen=True)
class SPO:
    """SPO (arXiv:2406.04314). beta, clip_range: see D3PO; weighting: one of WEIGHTINGS, "by noise" counts a step as
    much as noise was added in it (arXiv:2508.04324)."""

    LIMITS: ClassVar[dict] = {"beta": ABOVE_0, "clip_range": INSIDE_0_1}
    CHOICES: ClassVar[dict] = {"weighting": WEIGHTINGS}
    beta: float = 10.0
    clip_range: float = 0.1
    weighting: str = WEIGHTINGS[0]


def train_spo(policy: Policy, rollout: Rollout, preferences: StepPreferences, settings: SPO, optimizer: Optimizer,
              progress: Callable | None = None) -> Policy:
    """An SPO step. Evaluations per pair: 1 with gradient and 1 of the reference, since candidates share their state."""
    if settings.weighting not in WEIGHTINGS:
        raise ValueError(f"weighting: unknown {settings.weighting!r}; use one of {', '.join(WEIGHTINGS)}")
    random = generator(rollout.iteration, int(rollout.seeds[0]), Stream.STEP_PAIR_ORDER)
    order = torch.randperm(len(preferences.rows), generator=random)
    steps = [[PairSteps(preferences.rows[pairs], preferences.steps[pairs], pairs) for pairs in part]
             for part in dealt(order, optimizer.updates, rollout.batch_size, rollout, of=preferences.rows)]
    weights = _noise_of_steps(policy, rollout.random_steps())[preferences.steps]
    weights = weights / weights.mean()

    def evaluate(net, bank, micro):
        now, reference = with_reference(net, bank, rollout, micro)
        form = TRANSITIONS[rollout.random_steps().transition].form
        reached = [uploaded(states[micro.pairs], net.device) for states in (preferences.winner, preferences.loser)]
        log_probs = [log_prob(state, gaussian, form) for gaussian in (now, reference) for state in reached]
        chosen = uploaded(weights[micro.pairs], net.device) if settings.weighting == WEIGHTINGS[1] else None
        out = spo_loss(*log_probs, settings.beta, settings.clip_range, chosen)
        return out.loss, step_numbers(out, now, reference)

    return update(policy, steps, evaluate, optimizer, progress=progress)


def _noise_of_steps(policy: Policy, trajectory: Trajectory) -> torch.Tensor:
    """[S]: standard deviation of the noise that each step added, for eps and v models to states of unit size."""
    path = path_of(policy.model.get_model_object("model_sampling"))
    nothing = torch.zeros(trajectory.steps, 1)
    transition = transition_named(trajectory.transition, trajectory.strength, path)
    std = transition(path, nothing, nothing, trajectory.sigmas[:-1], trajectory.sigmas[1:]).std
    # eps and v states grow with sigma, so that the first steps alone would count
    return std if path.name == "flow" else std / (1 + trajectory.sigmas[1:] ** 2).sqrt()
