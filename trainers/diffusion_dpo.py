"""Diffusion-DPO (arXiv:2311.12908): learns from pairs of finished images, online from scores or offline from data."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from .engine.limits import BELOW_1, FROM_0, FROM_0_TO_1, FROM_1
from .engine.renoise import Renoised, pair_errors, paired, with_empty_prompt
from .engine.update import Optimizer, numbers, update
from .feedback.pairs import Preferences
from .losses.diffusion_dpo import diffusion_dpo_loss
from .policy.value import Policy
from .sampling.rollout import Rollout

# at noise level s an error of v is 1 + s^2 times the noise's, one of a flow's velocity (1 + s)^2 times: they share a beta
USUAL_BETA = {"eps": 5000.0, "v": 100.0, "flow": 100.0}


@dataclass(frozen=True)
class DiffusionDPO:
    """Diffusion-DPO (arXiv:2311.12908); online DPO where the pairs are of the policy's own images.

    beta: sharpness, in the official convention (the 1/2 is part of the formula, errors are means); 0: the usual value
    for the model, see USUAL_BETA. levels: noise levels per pair. safeguard: Diffusion-SDPO (arXiv:2511.03317), the
    share mu of its pull that the winner keeps, 0 to 1; None is off. empty_prompts: the share of pairs that are learned
    without their prompt, 0.2 in the official code.
    """

    LIMITS: ClassVar[dict] = {"beta": FROM_0, "levels": FROM_1, "safeguard": FROM_0_TO_1.of("winner keeps"),
                              "empty_prompts": BELOW_1}
    beta: float = 0.0
    levels: int = 4
    safeguard: float | None = None
    empty_prompts: float = 0.0


def train_dpo(policy: Policy, rollout: Rollout, preferences: Preferences, settings: DiffusionDPO, optimizer: Optimizer,
              progress: Callable | None = None) -> Policy:
    """A Diffusion-DPO step. Evaluations per pair and level: 2 with gradient and 2 of the reference."""
    rollout = with_empty_prompt(rollout, settings.empty_prompts)

    def evaluate(net, bank, micro):
        renoised = Renoised(net, rollout, micro)
        x0, reference = renoised.ask(bank), renoised.ask_quietly(None)
        errors, reference_errors = pair_errors(renoised, x0, settings.safeguard), renoised.error(reference).chunk(2)
        out = diffusion_dpo_loss(*errors, *reference_errors, settings.beta or USUAL_BETA[net.path.name])
        return out.loss, numbers(
            accuracy=out.accuracy, winner_error=errors[0].mean(), loser_error=errors[1].mean(),
            winner_change=out.winner_gap, loser_change=out.loser_gap, kl=renoised.distance(x0, reference).mean())

    steps = paired(rollout, preferences, settings.levels, optimizer.updates, settings.empty_prompts)
    return update(policy, steps, evaluate, optimizer, progress=progress)
