"""Pairs of denoising steps under the policy and under the reference: what D3PO and SPO share."""
from __future__ import annotations

from dataclasses import dataclass

import torch

from ...rewards.base.words import brief
from ..feedback.pairs import Preferences
from ..losses.d3po import StepPairLoss
from ..noise.streams import Stream, generator
from ..noise.transitions import Gaussian, gaussian_kl
from ..policy.network import Network
from ..policy.value import Bank
from ..sampling.rollout import Rollout
from .dealt import dealt
from .replay import replay
from .update import Number, numbers


@dataclass(frozen=True)
class PairSteps:
    """Some pairs, each at a step: rows, step [R] into the trajectory, R = 2P (winners, then losers) or P where both
    candidates share a row; pairs [P]: their numbers."""

    rows: torch.Tensor
    step: torch.Tensor
    pairs: torch.Tensor
    __repr__ = brief

    @property
    def size(self) -> int:
        return len(self.pairs)


def whole_trajectories(rollout: Rollout, preferences: Preferences, updates: int) -> list[list[PairSteps]]:
    """Every random step of every pair, in random order."""
    count, length = len(preferences.winner), rollout.random_steps().steps
    order = torch.randperm(count * length, generator=generator(rollout.iteration, int(rollout.seeds[0]), Stream.TRAJECTORY_ORDER))
    order = order[rollout.random_steps().random(preferences.winner[order // length], order % length)]
    first = preferences.winner.repeat_interleave(length)  # the row of the winner, by pair and step

    def micro(chosen: torch.Tensor) -> PairSteps:
        pairs, step = chosen // length, chosen % length
        rows = torch.cat([preferences.winner[pairs], preferences.loser[pairs]])
        return PairSteps(rows, torch.cat([step, step]), pairs)

    parts = dealt(order, updates, max(1, rollout.batch_size // 2), rollout, of=first)
    return [[micro(chosen) for chosen in part] for part in parts]


def with_reference(net: Network, bank: Bank, rollout: Rollout, micro: PairSteps) -> tuple[Gaussian, Gaussian]:
    """The step's Gaussians under the policy and, without gradient, under the reference."""
    with torch.no_grad():
        reference = replay(net, None, rollout, micro)
    return replay(net, bank, rollout, micro), reference


def step_numbers(out: StepPairLoss, now: Gaussian, reference: Gaussian) -> dict[str, Number]:
    return numbers(accuracy=out.accuracy, winner_gain=out.winner_gain, loser_gain=out.loser_gain,
                   clip_fraction=out.clip_fraction, kl=gaussian_kl(now.mean, reference.mean, now.std).mean())
