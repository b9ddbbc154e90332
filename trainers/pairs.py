"""Trainers that learn from pairs of finished images: Diffusion-DPO and MaPO, both with Diffusion-SDPO's safeguard.

Both images of a pair are noised alike, to the same level with the same noise, and the policy is asked to denoise them.
Pairs come from scores (online) or from data (offline): only latents, prompts and preferences count.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from .forward_process import Noised, Question, check_levels, drawn, numbers, sampled_levels
from .limits import ABOVE_0, FROM_0, FROM_0_TO_1, FROM_1
from .losses.diffusion_dpo import diffusion_dpo_loss
from .losses.mapo import mapo_loss
from .losses.sdpo import loser_scale, scale_gradient
from .policy.value import Policy
from .preferences import Preferences
from .rollout import Rollout
from .sampling import generator
from .update import Optimizer, update

# errors of a velocity weigh the noisy levels much more than errors of a noise do
USUAL_BETA = {"eps": 5000.0, "v": 5000.0, "flow": 100.0}


@dataclass(frozen=True)
class DiffusionDPO:
    """Diffusion-DPO (arXiv:2311.12908); online DPO where the pairs are of the policy's own images.

    beta: sharpness, in the official convention (the 1/2 is part of the formula, errors are means); 0: the usual value
    for the model, see USUAL_BETA. levels: noise levels per pair. safeguard: Diffusion-SDPO (arXiv:2511.03317), the
    share mu of its pull that the winner keeps, 0 to 1; None is off.
    """

    LEARNS_FROM: ClassVar[type] = Preferences
    LIMITS: ClassVar[dict] = {"beta": FROM_0, "levels": FROM_1, "safeguard": FROM_0_TO_1.of("winner keeps")}
    beta: float = 0.0
    levels: int = 4
    safeguard: float | None = None


@dataclass(frozen=True)
class MaPO:
    """MaPO (arXiv:2406.06424), without a reference. beta: weight of the margin; levels, safeguard: see DiffusionDPO."""

    LEARNS_FROM: ClassVar[type] = Preferences
    LIMITS: ClassVar[dict] = {"beta": ABOVE_0, "levels": FROM_1, "safeguard": FROM_0_TO_1.of("winner keeps")}
    beta: float = 0.1
    levels: int = 4
    safeguard: float | None = None


def paired(rollout: Rollout, preferences: Preferences, levels: int, updates: int) -> list[list[Noised]]:
    """Micro-batches of each update over the pairs in random order, each pair at ``levels`` noise levels.

    The rows of a micro-batch are its winners and then, in the same order, its losers; a pair shares level and noise.
    """
    check_levels(levels)
    random = generator(rollout.iteration, int(rollout.seeds[0]), 8)
    order = torch.randperm(len(preferences.winner), generator=random)
    bundles = order.split(max(1, rollout.batch_size // 2))
    parts = [bundles[k::updates] for k in range(min(updates, len(bundles)))]
    return [[_noised(rollout, preferences, pairs, level, levels, first=number == 0)
             for pairs in part for level in range(levels)] for number, part in enumerate(parts)]


def _noised(rollout: Rollout, preferences: Preferences, pairs: torch.Tensor, level: int, levels: int,
            first: bool) -> Noised:
    winner, loser = preferences.winner[pairs], preferences.loser[pairs]
    seeds, grid = rollout.seeds, sampled_levels(rollout)
    draws = [drawn(rollout, grid, level, levels, generator(rollout.iteration, int(seeds[w]), int(seeds[l]), level, 9))
             for w, l in zip(winner, loser)]
    sigma, noise = (torch.stack(values) for values in zip(*draws))
    return Noised(torch.cat([winner, loser]), torch.cat([sigma, sigma]), torch.cat([noise, noise]), first)


def pair_errors(question: Question, x0: torch.Tensor, safeguard: float | None) -> tuple[torch.Tensor, torch.Tensor]:
    """[P] winners' and [P] losers' errors; with a safeguard the losers' gradient is scaled down where it must be."""
    winner, loser = question.error(x0).chunk(2)
    if safeguard is None:
        return winner, loser
    (w, l), (w_target, l_target) = question.prediction(x0).chunk(2), question.target.chunk(2)
    return winner, scale_gradient(loser, loser_scale(w, w_target, l, l_target, safeguard))


def train_dpo(policy: Policy, rollout: Rollout, preferences: Preferences, settings: DiffusionDPO, optimizer: Optimizer,
              progress: Callable | None = None) -> Policy:
    """A Diffusion-DPO step. Evaluations per pair and level: 2 with gradient and 2 of the reference."""

    def evaluate(net, bank, micro):
        question = Question(net, rollout, micro)
        x0, reference = question.ask(bank), question.ask_quietly(None)
        errors, reference_errors = pair_errors(question, x0, settings.safeguard), question.error(reference).chunk(2)
        out = diffusion_dpo_loss(*errors, *reference_errors, settings.beta or USUAL_BETA[net.path.name])
        return out.loss, numbers(
            accuracy=out.accuracy, winner_error=errors[0].mean(), loser_error=errors[1].mean(),
            winner_change=out.winner_gap, loser_change=out.loser_gap, kl=question.distance(x0, reference).mean())

    return update(policy, paired(rollout, preferences, settings.levels, optimizer.updates), evaluate, optimizer,
                  progress=progress)


def train_mapo(policy: Policy, rollout: Rollout, preferences: Preferences, settings: MaPO, optimizer: Optimizer,
               progress: Callable | None = None) -> Policy:
    """A MaPO step. Evaluations per pair and level: 2, both with gradient."""

    def evaluate(net, bank, micro):
        question = Question(net, rollout, micro)
        out = mapo_loss(*pair_errors(question, question.ask(bank), settings.safeguard), settings.beta)
        return out.loss, numbers(accuracy=out.accuracy, winner_error=out.winner_error, loser_error=out.loser_error,
                                 margin=out.margin)

    return update(policy, paired(rollout, preferences, settings.levels, optimizer.updates), evaluate, optimizer,
                  progress=progress)
