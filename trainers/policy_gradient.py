"""Trainers that follow the likelihood of a stored trajectory: Flow-GRPO, DDPO and what differs from them by settings."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .advantages import Advantages
from .losses.ddpo import ppo_clip_loss
from .losses.flow_grpo import flow_grpo_loss
from .policy.network import Network
from .policy.value import Bank, Policy
from .rollout import Rollout
from .sampling import generator
from .transitions import TRANSITIONS, Gaussian, gaussian_kl, log_prob, transition_named
from .update import Optimizer, update


@dataclass(frozen=True)
class FlowGRPO:
    """Settings of Flow-GRPO (arXiv:2505.05470).

    clip_range: how far a ratio may leave 1; beta: weight of the KL to the reference, 0 is off; watch_kl: with beta 0,
    measure the KL on one micro-batch per update, which costs one reference evaluation of it.
    """

    clip_range: float = 1e-4
    beta: float = 0.0
    watch_kl: bool = True


@dataclass(frozen=True)
class DDPO:
    """Settings of DDPO-IS (arXiv:2305.13301); one update per rollout makes it DDPO-SF. See FlowGRPO for the names."""

    clip_range: float = 1e-4
    watch_kl: bool = True


@dataclass(frozen=True)
class Step:
    """One random step of some samples: rows of the rollout, the trajectory's step, which rows are used."""

    rows: slice
    step: int
    used: torch.Tensor
    watched: bool = False

    @property
    def size(self) -> int:
        return int(self.used.sum())


def steps_of(rollout: Rollout, advantages: Advantages, updates: int) -> list[list[Step]]:
    """Micro-batches of each update: the rollout's own batches in random order, every random step of each.

    A batch is never cut otherwise than it was sampled, since a network's answer depends on it in the last digits;
    batches without a used sample are left out. ValueError where the rollout has nothing to train on.
    """
    if rollout.trajectory is None:
        raise ValueError("rollout: no step was random, so there is no likelihood to train with; set the noise level "
                         "above 0 (eta 1 for noise-prediction models) in the sampling settings")
    if len(rollout.index) != len(advantages.values):
        raise ValueError(f"advantages: {len(advantages.values)} values for {len(rollout.index)} samples; connect the "
                         "scores of this very rollout")
    starts = [at for at in range(0, len(rollout.index), rollout.batch_size)
              if bool(advantages.weight[at:at + rollout.batch_size].any())]
    order = torch.randperm(len(starts), generator=generator(rollout.iteration, int(rollout.seeds[0]), 5))
    shuffled = [starts[int(k)] for k in order]
    parts = [shuffled[k::updates] for k in range(min(updates, len(shuffled)))]
    return [_steps_of_update(rollout, advantages, part) for part in parts]


def _steps_of_update(rollout: Rollout, advantages: Advantages, starts: list[int]) -> list[Step]:
    out = []
    for at in starts:
        rows = slice(at, at + rollout.batch_size)
        out += [Step(rows, step, advantages.weight[rows], watched=not out and step == 0)
                for step in range(rollout.trajectory.steps)]
    return out


def replay(net: Network, bank: Bank | None, rollout: Rollout, micro: Step) -> Gaussian:
    """The step's Gaussian under this bank, at the state that the rollout visited."""
    trajectory = rollout.trajectory
    x = trajectory.states[micro.rows, micro.step].to(net.device)
    sigma, sigma_next = (trajectory.sigmas[k].to(x.device).expand(len(x)) for k in (micro.step, micro.step + 1))
    x0 = net.denoise(x, sigma, rollout.prompts, rollout.index[micro.rows], rollout.guidance, bank)
    return transition_named(trajectory.transition, trajectory.strength, net.path)(net.path, x, x0, sigma, sigma_next)


def _likelihood(net: Network, bank: Bank, rollout: Rollout, advantages: Advantages, micro: Step):
    """(Gaussian, log-prob, old log-prob, advantage) of the used rows, on the network's device."""
    trajectory, used = rollout.trajectory, micro.used.to(net.device)
    now = replay(net, bank, rollout, micro)
    reached = trajectory.states[micro.rows, micro.step + 1].to(net.device)
    log_p = log_prob(reached, now, TRANSITIONS[trajectory.transition].form)[used]
    old = trajectory.log_probs[micro.rows, micro.step].to(net.device)[used]
    advantage = advantages.values[micro.rows].to(net.device, torch.float32)[used]
    return now, log_p, old, advantage


def _kl(net: Network, now: Gaussian, rollout: Rollout, micro: Step) -> torch.Tensor:
    with torch.no_grad():
        reference = replay(net, None, rollout, micro)
    return gaussian_kl(now.mean, reference.mean, now.std)[micro.used.to(net.device)]


def train_flow_grpo(policy: Policy, rollout: Rollout, advantages: Advantages, settings: FlowGRPO,
                    optimizer: Optimizer, progress: Callable | None = None) -> Policy:
    """A Flow-GRPO step on this rollout. ValueError names a setting that does not fit."""
    _check(settings.clip_range, getattr(settings, "beta", 0.0))

    def evaluate(net, bank, micro):
        now, log_p, old, advantage = _likelihood(net, bank, rollout, advantages, micro)
        watch = settings.watch_kl and micro.watched
        kl = _kl(net, now, rollout, micro) if settings.beta or watch else None
        out = flow_grpo_loss(log_p, old, advantage, settings.clip_range, kl, settings.beta)
        return out.loss, _report(out, kl)

    return update(policy, steps_of(rollout, advantages, optimizer.updates), evaluate, optimizer, progress=progress)


def train_ddpo(policy: Policy, rollout: Rollout, advantages: Advantages, settings: DDPO, optimizer: Optimizer,
               progress: Callable | None = None) -> Policy:
    """A DDPO-IS step on this rollout. ValueError names a setting that does not fit."""
    _check(settings.clip_range, 0.0)

    def evaluate(net, bank, micro):
        now, log_p, old, advantage = _likelihood(net, bank, rollout, advantages, micro)
        kl = _kl(net, now, rollout, micro) if settings.watch_kl and micro.watched else None
        out = ppo_clip_loss(log_p, old, advantage, settings.clip_range)
        return out.loss, _report(out, kl)

    return update(policy, steps_of(rollout, advantages, optimizer.updates), evaluate, optimizer, progress=progress)


def _report(out, kl: torch.Tensor | None) -> dict[str, float]:
    report = {"clip_fraction": float(out.clip_fraction), "ratio_mean": float(out.ratio.mean()),
              "ratio_largest_change": float((out.ratio - 1).abs().max())}
    return report if kl is None else report | {"kl": float(kl.detach().mean())}


def _check(clip_range: float, beta: float) -> None:
    if not 0 < clip_range < 1:
        raise ValueError(f"clip range: {clip_range} must lie between 0 and 1; 0.0001 is usual")
    if not (beta >= 0 and math.isfinite(beta)):
        raise ValueError(f"beta: {beta} must be 0 or more; 0.04 is usual, 0 switches the KL off")
