"""MaPO (arXiv:2406.06424): learns from pairs of finished images without a reference."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from .engine.limits import ABOVE_0, BELOW_1, FROM_0_TO_1, FROM_1
from .engine.renoise import Renoised, pair_errors, paired, with_empty_prompt
from .engine.update import Optimizer, numbers, update
from .feedback.pairs import Preferences
from .losses.mapo import mapo_loss
from .policy.value import Policy
from .sampling.rollout import Rollout


@dataclass(frozen=True)
class MaPO:
    """MaPO (arXiv:2406.06424), without a reference. beta: weight of the margin; levels, safeguard,
    empty_prompts: see DiffusionDPO.

    scale, temperature: s and T of the loss, see losses/mapo.py; the defaults are the official code's."""

    LIMITS: ClassVar[dict] = {"beta": ABOVE_0, "levels": FROM_1, "safeguard": FROM_0_TO_1.of("winner keeps"),
                              "scale": ABOVE_0, "temperature": ABOVE_0, "empty_prompts": BELOW_1}
    beta: float = 0.1
    levels: int = 4
    safeguard: float | None = None
    scale: float = 0.5
    temperature: float = 1000.0
    empty_prompts: float = 0.0


def train_mapo(policy: Policy, rollout: Rollout, preferences: Preferences, settings: MaPO, optimizer: Optimizer,
               progress: Callable | None = None) -> Policy:
    """A MaPO step. Evaluations per pair and level: 2, both with gradient."""
    rollout = with_empty_prompt(rollout, settings.empty_prompts)

    def evaluate(net, bank, micro):
        renoised = Renoised(net, rollout, micro)
        errors = pair_errors(renoised, renoised.ask(bank), settings.safeguard)
        out = mapo_loss(*errors, settings.beta, settings.scale, settings.temperature)
        return out.loss, numbers(accuracy=out.accuracy, winner_error=out.winner_error, loser_error=out.loser_error,
                                 margin=out.margin)

    steps = paired(rollout, preferences, settings.levels, optimizer.updates, settings.empty_prompts)
    return update(policy, steps, evaluate, optimizer, progress=progress)
