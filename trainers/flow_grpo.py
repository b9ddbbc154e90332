"""Flow-GRPO (arXiv:2505.05470): images of a prompt compete, and the steps that led to better ones become likelier."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, cast

import torch

from .engine.limits import BELOW_1, FROM_0
from .engine.replay import Replayed, train_on_trajectory
from .engine.update import Optimizer
from .feedback.advantages import Advantages
from .losses.flow_dppo import flow_dppo_loss
from .losses.flow_grpo import flow_grpo_loss, gradient_weight, noise_weight
from .losses.grpo_guard import grpo_guard_loss, guard_log_ratio
from .noise.paths import Path
from .noise.transitions import TRANSITIONS, Transition, gaussian_kl, transition_named
from .policy.levels import path_of
from .policy.value import Policy
from .sampling.plan import payable_steps, usual_noise
from .sampling.rollout import Rollout

TRUST_REGIONS = {"clipped ratio": 1e-4, "guard": 2e-6, "exact KL": 1e-5}
FROM_MEANS = ("guard", "exact KL")  # read how far a step's mean has moved since the rollout
STEP_WEIGHTS = ("even", "by noise", "by gradient")
CPS_CLIP = 1e-5  # for the clipped ratio of flow_cps, whose likelihood is on another scale


@dataclass(frozen=True)
class FlowGRPO:
    """Settings of Flow-GRPO (arXiv:2505.05470) and its successors.

    trust: "clipped ratio"; "guard", GRPO-Guard's normalised ratio (arXiv:2510.22319); "exact KL", Flow-DPPO's mask
    (arXiv:2606.11025). clip_range: how far a step may move (0: the usual value of ``trust``, see TRUST_REGIONS and
    CPS_CLIP); beta: weight of the KL to the reference, 0 is off (the official code leaves the step's length out of its KL:
    its 0.04 is about 0.006 here at 10 steps of SD3); watch_kl: with beta 0, measure the KL on one micro-batch per update,
    which costs one reference evaluation of it; step_weights: "by noise" weighs a step by its own noise, as TempFlow-GRPO
    (arXiv:2508.04324), since noisier steps explore more and their likelihood's gradient is smaller; "by gradient" weighs it so
    that the gradients of all steps are alike, as Flash-GRPO (arXiv:2605.15980), for which each prompt has one random step.
    """

    LIMITS: ClassVar[dict] = {"clip_range": BELOW_1, "beta": FROM_0}
    CHOICES: ClassVar[dict] = {"trust": tuple(TRUST_REGIONS), "step_weights": STEP_WEIGHTS}
    clip_range: float = 0.0
    beta: float = 0.0
    watch_kl: bool = True
    trust: str = "clipped ratio"
    step_weights: str = STEP_WEIGHTS[0]


def usual_clip(trust: str, form: str) -> float:
    """The clip range of the papers. form: of the likelihood, see transitions.py."""
    return CPS_CLIP if (trust, form) == ("clipped ratio", "cps") else TRUST_REGIONS[trust]


def train_flow_grpo(policy: Policy, rollout: Rollout, advantages: Advantages, settings: FlowGRPO,
                    optimizer: Optimizer, progress: Callable | None = None) -> Policy:
    """A Flow-GRPO step on this rollout. ValueError names a setting that does not fit."""
    if settings.trust not in TRUST_REGIONS:
        raise ValueError(f"trust region: unknown {settings.trust!r}; use one of {', '.join(TRUST_REGIONS)}")
    name = rollout.random_steps().transition
    if settings.trust == "guard" and TRANSITIONS[name].form != "gaussian":
        raise ValueError(f"trust: 'guard' corrects the likelihood of a Gaussian step, but {name} has a measure of its own in "
                         "its place; set the transition in the sampling settings to flow_sde, or trust to 'clipped ratio'")
    if settings.trust in FROM_MEANS and rollout.random_steps().means is None:
        raise ValueError(f"trust: {settings.trust!r} reads the means of the rollout's steps, and this rollout was made without "
                         "them; make it with the node Rollout, or with keep_means")
    weight_of = weights_by(settings, policy, rollout)
    clip, beta = settings.clip_range or usual_clip(settings.trust, TRANSITIONS[name].form), settings.beta

    def loss_of(now: Replayed):
        kl, old_mean = now.kl if beta else None, cast(torch.Tensor, now.old_mean)  # there where it is read, see above
        if settings.trust == "guard":
            log_ratio = guard_log_ratio(now.log_prob, now.old_log_prob, now.mean, old_mean, now.std)
            return grpo_guard_loss(log_ratio, now.advantage, now.delta, clip, kl, beta)
        if settings.trust == "exact KL":
            moved = gaussian_kl(now.mean, old_mean, now.std)
            out = flow_dppo_loss(now.log_prob, now.old_log_prob, now.advantage, moved, clip, weight_of(now))
            return out._replace(loss=out.loss + beta * kl.mean()) if beta else out
        return flow_grpo_loss(now.log_prob, now.old_log_prob, now.advantage, clip, kl, beta, weight_of(now))

    return train_on_trajectory(policy, rollout, advantages, optimizer, loss_of, beta=beta, watch_kl=settings.watch_kl,
                  progress=progress)


def weights_by(settings: FlowGRPO, policy: Policy, rollout: Rollout) -> Callable[[Replayed], torch.Tensor | float]:
    """The weight of a replayed step's rows, [U] or 1. ValueError where the setting does not fit."""
    if settings.step_weights not in STEP_WEIGHTS:
        raise ValueError(f"step weights: unknown {settings.step_weights!r}; use one of {', '.join(STEP_WEIGHTS)}")
    if settings.step_weights == "even":
        return lambda now: 1.0
    if settings.trust == "guard":
        raise ValueError("step weights: 'guard' makes the steps alike by itself; set step weights to 'even', or trust to "
                         "'clipped ratio'")
    there, path = rollout.random_steps(), path_of(policy.model.get_model_object("model_sampling"))
    transition = transition_named(there.transition, there.strength, path)
    if settings.step_weights == "by gradient":
        first, end = payable_steps(path, transition, rollout.sigmas)
        levels = rollout.sigmas[first:end + 1] if there.chosen is None else there.sigmas
        std, carried = carries(path, transition, levels)
        weights = gradient_weight(*carries(path, transition, there.sigmas), std / carried).tolist()
        return lambda now: weights[now.step]
    usual = usual_noise(path, transition, rollout.sigmas)
    return lambda now: noise_weight(now.std, usual)


def carries(path: Path, transition: Transition, sigmas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[S] std of the steps between these levels [S + 1], and [S] how much of the velocity is in their means, |d mean / d v|."""
    sigma, after = sigmas[:-1].double(), sigmas[1:].double()
    nothing = torch.zeros(len(sigma), 1, dtype=torch.float64)
    step = transition(path, nothing, path.x0(nothing, torch.ones_like(nothing), sigma), sigma, after)
    return step.std, step.mean[:, 0].abs()
