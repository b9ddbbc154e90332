"""Trainers that learn from pairs of denoising steps: D3PO on two whole trajectories, SPO on candidates of one step."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from .forward_process import numbers
from .limits import ABOVE_0, FROM_1, INSIDE_0_1
from .losses.d3po import StepPairLoss, d3po_loss
from .losses.spo import spo_loss
from .paths import Path
from .policy.network import Network, path_of
from .policy.value import Bank, Policy
from .policy_gradient import replay
from .preferences import Preferences
from .rollout import Rollout, Trajectory
from .sampling import SampleNoise, generator
from .transitions import TRANSITIONS, Gaussian, ddim, gaussian_kl, log_prob, sample, transition_named
from .update import Optimizer, update

WEIGHTINGS = ("all steps alike", "by noise")


@dataclass(frozen=True)
class StepPreferences:
    """N pairs of candidates for one and the same step.

    rows: [N] the rollout's sample, steps: [N] the trajectory's step, whose state both start from; winner, loser:
    [N, C, H, W] the states that they lead to; margin: [N] difference of their scores. stats: pairs, candidates, ...
    """

    rows: torch.Tensor
    steps: torch.Tensor
    winner: torch.Tensor
    loser: torch.Tensor
    margin: torch.Tensor
    stats: dict[str, float]


@dataclass(frozen=True)
class D3PO:
    """D3PO (arXiv:2311.13231). beta: sharpness; clip_range: how far a step's ratio may move from the reference;
    rebuilt_steps: for images without trajectory, the number of steps that are rebuilt."""

    LEARNS_FROM: ClassVar[type] = Preferences
    LIMITS: ClassVar[dict] = {"beta": ABOVE_0, "clip_range": INSIDE_0_1, "rebuilt_steps": FROM_1}
    beta: float = 0.1
    clip_range: float = 0.1
    rebuilt_steps: int = 10


@dataclass(frozen=True)
class SPO:
    """SPO (arXiv:2406.04314). beta, clip_range: see D3PO; weighting: one of WEIGHTINGS, "by noise" counts a step as
    much as noise was added in it (arXiv:2508.04324)."""

    LEARNS_FROM: ClassVar[type] = StepPreferences
    LIMITS: ClassVar[dict] = {"beta": ABOVE_0, "clip_range": INSIDE_0_1}
    beta: float = 10.0
    clip_range: float = 0.1
    weighting: str = WEIGHTINGS[0]


@dataclass(frozen=True)
class PairSteps:
    """Some pairs, each at a step: rows, step [R] into the trajectory, R = 2P (winners, then losers) or P where both
    candidates share a row; pairs [P]: their numbers."""

    rows: torch.Tensor
    step: torch.Tensor
    pairs: torch.Tensor

    @property
    def size(self) -> int:
        return len(self.pairs)


def train_d3po(policy: Policy, rollout: Rollout, preferences: Preferences, settings: D3PO, optimizer: Optimizer,
               progress: Callable | None = None) -> Policy:
    """A D3PO step. Evaluations per pair and step: 2 with gradient and 2 of the reference."""
    if rollout.trajectory is None:
        path = path_of(policy.model.get_model_object("model_sampling"))
        rollout = rebuilt(rollout, path, settings.rebuilt_steps)
    steps = _whole_trajectories(rollout, preferences, optimizer.updates)

    def evaluate(net, bank, micro):
        now, reference = _both(net, bank, rollout, micro)
        reached = rollout.trajectory.states[micro.rows, micro.step + 1].to(net.device)
        form = TRANSITIONS[rollout.trajectory.transition].form
        out = d3po_loss(*log_prob(reached, now, form).chunk(2), *log_prob(reached, reference, form).chunk(2),
                        settings.beta, settings.clip_range)
        return out.loss, _numbers(out, now, reference)

    return update(policy, steps, evaluate, optimizer, progress=progress)


def train_spo(policy: Policy, rollout: Rollout, preferences: StepPreferences, settings: SPO, optimizer: Optimizer,
              progress: Callable | None = None) -> Policy:
    """An SPO step. Evaluations per pair: 1 with gradient and 1 of the reference, since candidates share their state."""
    if settings.weighting not in WEIGHTINGS:
        raise ValueError(f"weighting: unknown {settings.weighting!r}; use one of {', '.join(WEIGHTINGS)}")
    order = torch.randperm(len(preferences.rows), generator=generator(rollout.iteration, int(rollout.seeds[0]), 11))
    bundles = [PairSteps(preferences.rows[pairs], preferences.steps[pairs], pairs)
               for pairs in order.split(rollout.batch_size)]
    weights = _noise_of_steps(policy, rollout.trajectory)[preferences.steps]
    weights = weights / weights.mean()

    def evaluate(net, bank, micro):
        now, reference = _both(net, bank, rollout, micro)
        form = TRANSITIONS[rollout.trajectory.transition].form
        reached = [states[micro.pairs].to(net.device) for states in (preferences.winner, preferences.loser)]
        log_probs = [log_prob(state, gaussian, form) for gaussian in (now, reference) for state in reached]
        chosen = weights[micro.pairs].to(net.device) if settings.weighting == WEIGHTINGS[1] else None
        out = spo_loss(*log_probs, settings.beta, settings.clip_range, chosen)
        return out.loss, _numbers(out, now, reference)

    return update(policy, _shared_out(bundles, optimizer.updates), evaluate, optimizer, progress=progress)


def rebuilt(rollout: Rollout, path: Path, steps: int) -> Rollout:
    """The rollout with a trajectory that leads to its latents, drawn from q(x_next | x, x0): a step's ancestral
    posterior. The noise is the same for all images of a prompt. Its log-probabilities are the posterior's."""
    grid = rollout.sigmas[:-1]
    if not 1 <= steps < len(grid):
        raise ValueError(f"rebuilt steps: {steps} steps cannot be taken out of {len(grid)} noise levels; choose 1 to "
                         f"{len(grid) - 1}")
    sigmas = grid[torch.linspace(0, len(grid) - 1, steps + 1).round().long()]
    x0, shape, posterior = rollout.latents, tuple(rollout.latents.shape[1:]), ddim(1.0)
    shared = {int(i): int(torch.randint(2**62, (), generator=generator(rollout.iteration, int(i), 10)))
              for i in rollout.index.unique()}
    noise = SampleNoise(torch.tensor([shared[int(i)] for i in rollout.index]))
    states, means, log_probs = [path.add_noise(x0, noise.next(shape), sigmas[0].expand(len(x0)))], [], []
    for here, there in zip(sigmas[:-1], sigmas[1:]):
        step = posterior(path, states[-1], x0, here.expand(len(x0)), there.expand(len(x0)))
        states.append(sample(step, noise.next(shape)))
        means.append(step.mean)
        log_probs.append(log_prob(states[-1], step))
    return replace(rollout, trajectory=Trajectory(torch.stack(states, 1), torch.stack(log_probs, 1),
                                                  torch.stack(means, 1), sigmas, "ddim", 1.0))


def _whole_trajectories(rollout: Rollout, preferences: Preferences, updates: int) -> list[list[PairSteps]]:
    """Every step of every pair, in random order."""
    count, length = len(preferences.winner), rollout.trajectory.steps
    order = torch.randperm(count * length, generator=generator(rollout.iteration, int(rollout.seeds[0]), 11))
    bundles = []
    for chosen in order.split(max(1, rollout.batch_size // 2)):
        pairs, step = chosen // length, chosen % length
        rows = torch.cat([preferences.winner[pairs], preferences.loser[pairs]])
        bundles.append(PairSteps(rows, torch.cat([step, step]), pairs))
    return _shared_out(bundles, updates)


def _shared_out(bundles: list[PairSteps], updates: int) -> list[list[PairSteps]]:
    return [bundles[k::updates] for k in range(min(updates, len(bundles)))]


def _both(net: Network, bank: Bank, rollout: Rollout, micro: PairSteps) -> tuple[Gaussian, Gaussian]:
    """The step's Gaussians under the policy and, without gradient, under the reference."""
    with torch.no_grad():
        reference = replay(net, None, rollout, micro)
    return replay(net, bank, rollout, micro), reference


def _noise_of_steps(policy: Policy, trajectory: Trajectory) -> torch.Tensor:
    """[S]: standard deviation of the noise that each step added, for eps and v models to states of unit size."""
    path = path_of(policy.model.get_model_object("model_sampling"))
    nothing = torch.zeros(trajectory.steps, 1)
    transition = transition_named(trajectory.transition, trajectory.strength, path)
    std = transition(path, nothing, nothing, trajectory.sigmas[:-1], trajectory.sigmas[1:]).std
    # eps and v states grow with sigma, so that the first steps alone would count
    return std if path.name == "flow" else std / (1 + trajectory.sigmas[1:] ** 2).sqrt()


def _numbers(out: StepPairLoss, now: Gaussian, reference: Gaussian) -> dict[str, float]:
    return numbers(accuracy=out.accuracy, winner_gain=out.winner_gain, loser_gain=out.loser_gain,
                   clip_fraction=out.clip_fraction, kl=gaussian_kl(now.mean, reference.mean, now.std).mean())
