"""Trainers that follow the likelihood of a stored trajectory: Flow-GRPO, DDPO and what differs from them by settings."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from .advantages import Advantages
from .limits import ABOVE_0, BELOW_1, FROM_0, INSIDE_0_1
from .losses.ddpo import PolicyLoss, ppo_clip_loss
from .losses.dpok import dpok_loss
from .losses.flow_dppo import FlowDPPOLoss, flow_dppo_loss
from .losses.flow_grpo import KLPolicyLoss, flow_grpo_loss
from .losses.grpo_guard import grpo_guard_loss, guard_log_ratio
from .policy.network import Network
from .policy.value import Bank, Policy
from .rollout import Rollout
from .sampling import generator
from .transitions import TRANSITIONS, Gaussian, gaussian_kl, log_prob, transition_named
from .update import Optimizer, update
from .value_baseline import VALUE, value_baseline


TRUST_REGIONS = {"clipped ratio": 1e-4, "guard": 2e-6, "exact KL": 1e-5}


@dataclass(frozen=True)
class FlowGRPO:
    """Settings of Flow-GRPO (arXiv:2505.05470) and its successors.

    trust: "clipped ratio"; "guard", GRPO-Guard's normalised ratio (arXiv:2510.22319); "exact KL", Flow-DPPO's mask
    (arXiv:2606.11025). clip_range: how far a step may move (0: the usual value of ``trust``, see TRUST_REGIONS);
    beta: weight of the KL to the reference, 0 is off; watch_kl: with beta 0, measure the KL on one micro-batch per
    update, which costs one reference evaluation of it.
    """

    LIMITS: ClassVar[dict] = {"clip_range": BELOW_1, "beta": FROM_0}
    clip_range: float = 1e-4
    beta: float = 0.0
    watch_kl: bool = True
    trust: str = "clipped ratio"


@dataclass(frozen=True)
class DDPO:
    """Settings of DDPO-IS (arXiv:2305.13301); one update per rollout makes it DDPO-SF. See FlowGRPO for the names."""

    LIMITS: ClassVar[dict] = {"clip_range": INSIDE_0_1}
    clip_range: float = 1e-4
    watch_kl: bool = True


@dataclass(frozen=True)
class DPOK:
    """Settings of DPOK (arXiv:2305.16381): weights of the reward term and of the KL to the reference.

    value_steps: optimizer steps in which the value baseline learns from each rollout, see value_baseline.py; the reward
    minus what it expected then takes the place of the advantages. 0: no baseline, the advantages as they come.
    """

    LIMITS: ClassVar[dict] = {"clip_range": INSIDE_0_1, "reward_weight": ABOVE_0, "kl_weight": FROM_0,
                              "value_steps": FROM_0}
    clip_range: float = 1e-4
    reward_weight: float = 100.0
    kl_weight: float = 0.01
    value_steps: int = 0


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
    _check_likelihood(rollout)
    if len(rollout.index) != len(advantages.values):
        raise ValueError(f"advantages: {len(advantages.values)} values for {len(rollout.index)} samples; connect the "
                         "scores of this very rollout")
    starts = [at for at in range(0, len(rollout.index), rollout.batch_size)
              if bool(advantages.weight[at:at + rollout.batch_size].any())]
    order = torch.randperm(len(starts), generator=generator(rollout.iteration, int(rollout.seeds[0]), 5))
    shuffled = [starts[int(k)] for k in order]
    parts = [shuffled[k::updates] for k in range(min(updates, len(shuffled)))]
    return [_steps_of_update(rollout, advantages, part) for part in parts]


def _check_likelihood(rollout: Rollout) -> None:
    if rollout.trajectory is None:
        raise ValueError("rollout: no step was random, so there is no likelihood to train with; set the noise level "
                         "above 0 (eta 1 for noise-prediction models) in the sampling settings. Latents of another sampler "
                         "have no steps at all: learn from them with a trainer that needs none, such as DiffusionNFT")


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
    x0 = net.denoise(x, sigma, rollout.prompts, rollout.index[micro.rows], rollout.guidance, bank,
                     schedule=rollout.sigmas)
    return transition_named(trajectory.transition, trajectory.strength, net.path)(net.path, x, x0, sigma, sigma_next)


@dataclass(frozen=True)
class Replayed:
    """The used rows of a step, now and at the rollout: [U] and [U, C, H, W]. kl: to the reference, where asked for."""

    mean: torch.Tensor
    old_mean: torch.Tensor
    std: torch.Tensor
    delta: torch.Tensor
    log_prob: torch.Tensor
    old_log_prob: torch.Tensor
    advantage: torch.Tensor
    kl: torch.Tensor | None


def _replayed(net: Network, bank: Bank, rollout: Rollout, advantage: torch.Tensor, micro: Step, want_kl: bool) -> Replayed:
    """advantage: [B, S], of each sample in each random step."""
    trajectory, used = rollout.trajectory, micro.used.to(net.device)
    now = replay(net, bank, rollout, micro)
    reached, old_mean, old_log_prob = (values[micro.rows, step].to(net.device) for values, step in (
        (trajectory.states, micro.step + 1), (trajectory.means, micro.step), (trajectory.log_probs, micro.step)))
    kl = None
    if want_kl:
        with torch.no_grad():
            reference = replay(net, None, rollout, micro)
        kl = gaussian_kl(now.mean, reference.mean, now.std)[used]
    delta = (trajectory.sigmas[micro.step] - trajectory.sigmas[micro.step + 1]).to(net.device)
    return Replayed(
        mean=now.mean[used], old_mean=old_mean[used], std=now.std[used], delta=delta.expand(micro.size),
        log_prob=log_prob(reached, now, TRANSITIONS[trajectory.transition].form)[used], old_log_prob=old_log_prob[used],
        advantage=advantage[micro.rows, micro.step].to(net.device, torch.float32)[used], kl=kl)


LossOf = Callable[[Replayed], KLPolicyLoss | PolicyLoss | FlowDPPOLoss]


def _train(policy: Policy, rollout: Rollout, advantages: Advantages, optimizer: Optimizer, loss_of: LossOf, *,
           beta: float, watch_kl: bool, progress: Callable | None, each_step: torch.Tensor | None = None) -> Policy:
    """each_step: [B, S] advantages of each random step, where they are not those of the whole image."""
    steps = steps_of(rollout, advantages, optimizer.updates)
    if each_step is None:
        each_step = advantages.values[:, None].expand(-1, rollout.trajectory.steps)

    def evaluate(net, bank, micro):
        now = _replayed(net, bank, rollout, each_step, micro, bool(beta) or (watch_kl and micro.watched))
        out = loss_of(now)
        report = {"ratio_mean": float(out.ratio.mean()), "ratio_largest_change": float((out.ratio - 1).abs().max()),
                  "clip_fraction": float(getattr(out, "clip_fraction", getattr(out, "dropped_fraction", 0.0)))}
        return out.loss, report if now.kl is None else report | {"kl": float(now.kl.detach().mean())}

    return update(policy, steps, evaluate, optimizer, progress=progress)


def train_flow_grpo(policy: Policy, rollout: Rollout, advantages: Advantages, settings: FlowGRPO,
                    optimizer: Optimizer, progress: Callable | None = None) -> Policy:
    """A Flow-GRPO step on this rollout. ValueError names a setting that does not fit."""
    if settings.trust not in TRUST_REGIONS:
        raise ValueError(f"trust region: unknown {settings.trust!r}; use one of {', '.join(TRUST_REGIONS)}")
    _check_likelihood(rollout)
    name = rollout.trajectory.transition
    if settings.trust == "guard" and TRANSITIONS[name].form != "gaussian":
        raise ValueError(f"trust: 'guard' corrects the likelihood of a Gaussian step, but {name} has a measure of its own in "
                         "its place; set the transition in the sampling settings to flow_sde, or trust to 'clipped ratio'")
    clip, beta = settings.clip_range or TRUST_REGIONS[settings.trust], settings.beta

    def loss_of(now: Replayed):
        kl = now.kl if beta else None
        if settings.trust == "guard":
            log_ratio = guard_log_ratio(now.log_prob, now.old_log_prob, now.mean, now.old_mean, now.std)
            return grpo_guard_loss(log_ratio, now.advantage, now.delta, clip, kl, beta)
        if settings.trust == "exact KL":
            moved = gaussian_kl(now.mean, now.old_mean, now.std)
            out = flow_dppo_loss(now.log_prob, now.old_log_prob, now.advantage, moved, clip)
            return out._replace(loss=out.loss + beta * kl.mean()) if beta else out
        return flow_grpo_loss(now.log_prob, now.old_log_prob, now.advantage, clip, kl, beta)

    return _train(policy, rollout, advantages, optimizer, loss_of, beta=beta, watch_kl=settings.watch_kl,
                  progress=progress)


def train_ddpo(policy: Policy, rollout: Rollout, advantages: Advantages, settings: DDPO, optimizer: Optimizer,
               progress: Callable | None = None) -> Policy:
    """A DDPO-IS step on this rollout."""
    return _train(policy, rollout, advantages, optimizer,
                  lambda now: ppo_clip_loss(now.log_prob, now.old_log_prob, now.advantage, settings.clip_range),
                  beta=0.0, watch_kl=settings.watch_kl, progress=progress)


def train_dpok(policy: Policy, rollout: Rollout, advantages: Advantages, settings: DPOK, optimizer: Optimizer,
               progress: Callable | None = None) -> Policy:
    """A DPOK step on this rollout, its advantages or those of the value baseline."""

    def trained(advantages: Advantages, each_step: torch.Tensor | None = None) -> Policy:
        return _train(policy, rollout, advantages, optimizer,
                      lambda now: dpok_loss(now.log_prob, now.old_log_prob, now.advantage, settings.clip_range, now.kl,
                                            settings.kl_weight, settings.reward_weight),
                      beta=settings.kl_weight, watch_kl=True, progress=progress, each_step=each_step)

    if not settings.value_steps:
        return trained(advantages)
    _check_likelihood(rollout)
    rewards = advantages.rewards
    expected, value, report, cost = value_baseline(policy, rollout, rewards, settings.value_steps)
    new = trained(replace(advantages, weight=rewards.isfinite()), rewards[:, None] - expected)
    report["update_evaluations"] = new.metrics["update_evaluations"] + cost
    return replace(new, anchors={**new.anchors, VALUE: value}, metrics=new.metrics | report)
