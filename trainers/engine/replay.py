"""Replays a stored trajectory: each random step's likelihood again, now, at the rollout and under the reference.

What Flow-GRPO, DDPO and DPOK share; they differ by the loss of a replayed step.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ...rewards.base.words import brief
from ..feedback.advantages import Advantages
from ..noise.streams import Stream, generator
from ..noise.transitions import TRANSITIONS, Gaussian, check_noise, gaussian_kl, log_prob, transition_named
from ..policy.network import Network
from ..policy.uploads import uploaded
from ..policy.value import Bank, Policy
from ..sampling.rollout import Rollout
from .update import Optimizer, numbers, update


@dataclass(frozen=True)
class Step:
    """One random step of some samples: rows of the rollout, the trajectory's step, which rows are used."""

    rows: slice
    step: int
    used: torch.Tensor
    watched: bool = False
    __repr__ = brief

    @property
    def size(self) -> int:
        return int(self.used.sum())


def steps_of(rollout: Rollout, advantages: Advantages, updates: int) -> list[list[Step]]:
    """Micro-batches of each update: the rollout's own batches in random order, every random step of each.

    A batch is never cut otherwise than it was sampled, since a network's answer depends on it in the last digits;
    batches without a used sample are left out. ValueError where the rollout has nothing to train on.
    """
    if len(rollout.index) != len(advantages.values):
        raise ValueError(f"advantages: {len(advantages.values)} values for {len(rollout.index)} samples; connect the "
                         "scores of this very rollout")
    starts = [at for at in range(0, len(rollout.index), rollout.batch_size)
              if bool(advantages.used[at:at + rollout.batch_size].any())]
    order = torch.randperm(len(starts), generator=generator(rollout.iteration, int(rollout.seeds[0]), Stream.REPLAY_ORDER))
    shuffled = [starts[int(k)] for k in order]
    parts = [shuffled[k::updates] for k in range(min(updates, len(shuffled)))]
    return [_steps_of_update(rollout, advantages, part) for part in parts]


def _steps_of_update(rollout: Rollout, advantages: Advantages, starts: list[int]) -> list[Step]:
    out: list[Step] = []
    for at in starts:
        rows = slice(at, at + rollout.batch_size)
        for step in range(rollout.random_steps().steps):
            used = advantages.used[rows] & rollout.random_steps().random(rows, step)
            if bool(used.any()):
                out.append(Step(rows, step, used, watched=not out))
    return out


def replay(net: Network, bank: Bank | None, rollout: Rollout, micro: Step) -> Gaussian:
    """The step's Gaussian under this bank, at the state that the rollout visited."""
    trajectory = rollout.random_steps()
    x = uploaded(trajectory.states[micro.rows, micro.step], net.device)
    sigma, sigma_next = (uploaded(trajectory.sigmas[k], x.device).expand(len(x)) for k in (micro.step, micro.step + 1))
    x0 = net.denoise(x, sigma, rollout.prompts, rollout.index[micro.rows], rollout.guidance, bank,
                     schedule=rollout.sigmas)
    transition = transition_named(trajectory.transition, trajectory.strength, net.path)
    check_noise(transition, net.path, trajectory.sigmas[micro.step], trajectory.sigmas[micro.step + 1])
    return transition(net.path, x, x0, sigma, sigma_next)


@dataclass(frozen=True)
class Replayed:
    """The used rows of a step, now and at the rollout: [U] and [U, C, H, W]. old_mean: None where the rollout has not kept
    it; kl: to the reference, where asked for; step: of the trajectory."""

    mean: torch.Tensor
    old_mean: torch.Tensor | None
    std: torch.Tensor
    delta: torch.Tensor
    log_prob: torch.Tensor
    old_log_prob: torch.Tensor
    advantage: torch.Tensor
    kl: torch.Tensor | None
    step: int
    __repr__ = brief


def replayed(net: Network, bank: Bank, rollout: Rollout, advantage: torch.Tensor, micro: Step, want_kl: bool) -> Replayed:
    """advantage: [B, S], of each sample in each random step."""
    trajectory = rollout.random_steps()
    used = uploaded(micro.used.nonzero().flatten(), net.device)  # counted on the CPU: nobody waits for the device
    now = replay(net, bank, rollout, micro)
    reached, old_log_prob = (uploaded(values[micro.rows, step], net.device) for values, step in (
        (trajectory.states, micro.step + 1), (trajectory.log_probs, micro.step)))
    old_mean = None if trajectory.means is None else uploaded(trajectory.means[micro.rows, micro.step], net.device)[used]
    kl = None
    if want_kl:
        with torch.no_grad():
            reference = replay(net, None, rollout, micro)
        kl = gaussian_kl(now.mean, reference.mean, now.std)[used]
    delta = uploaded(trajectory.sigmas[micro.step] - trajectory.sigmas[micro.step + 1], net.device)
    return Replayed(
        mean=now.mean[used], old_mean=old_mean, std=now.std[used], delta=delta.expand(micro.size),
        log_prob=log_prob(reached, now, TRANSITIONS[trajectory.transition].form)[used], old_log_prob=old_log_prob[used],
        advantage=uploaded(advantage[micro.rows, micro.step], net.device, torch.float32)[used], kl=kl,
        step=micro.step)


# a NamedTuple of losses/: loss, ratio, and the share of rows that were clipped or dropped
LossOf = Callable[[Replayed], Any]


def train_on_trajectory(policy: Policy, rollout: Rollout, advantages: Advantages, optimizer: Optimizer, loss_of: LossOf, *,
           beta: float, watch_kl: bool, progress: Callable | None, each_step: torch.Tensor | None = None) -> Policy:
    """each_step: [B, S] advantages of each random step, where they are not those of the whole image."""
    steps = steps_of(rollout, advantages, optimizer.updates)
    if each_step is None:
        each_step = advantages.values[:, None].expand(-1, rollout.random_steps().steps)

    def evaluate(net, bank, micro):
        now = replayed(net, bank, rollout, each_step, micro, bool(beta) or (watch_kl and micro.watched))
        out = loss_of(now)
        report = numbers(ratio_mean=out.ratio.mean(), ratio_largest_change=(out.ratio - 1).abs().max(),
                         clip_fraction=getattr(out, "clip_fraction", getattr(out, "dropped_fraction", 0.0)))
        return out.loss, report if now.kl is None else report | numbers(kl=now.kl.mean())

    return update(policy, steps, evaluate, optimizer, progress=progress)
