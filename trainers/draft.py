"""DRaFT (arXiv:2309.17400): the reward's own gradient through the last sampling steps."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .engine.limits import FROM_0
from .engine.reward_walk import Course, Look, Walk, checked_count, known
from .engine.update import Optimizer, numbers
from .losses.draft import draft_loss
from .policy.network import Network
from .policy.value import Bank, Policy


@dataclass(frozen=True)
class DRaFT:
    """DRaFT-K (arXiv:2309.17400). steps: K, the last steps that carry gradient, 0 for all; extra_noises: n of DRaFT-LV,
    further looks at the last step with fresh noise; kl_weight: DRaFT+'s pull to the reference at those steps."""

    LIMITS: ClassVar[dict] = {"steps": FROM_0.of("back-propagated steps"), "extra_noises": FROM_0, "kl_weight": FROM_0}
    steps: int = 1
    extra_noises: int = 0
    kl_weight: float = 0.0


def train_draft(policy: Policy, course: Course, settings: DRaFT, optimizer: Optimizer) -> Policy:
    """A DRaFT step. Evaluations per image: T, one more for each extra noise, one more per step with gradient where
    kl_weight is above 0."""
    total = course.steps
    count = checked_count("back-propagated steps", settings.steps or total, total)
    if settings.extra_noises and count != 1:
        raise ValueError(f"extra noises: they belong to the last step alone, but {count} steps carry gradient; set the "
                         "back-propagated steps to 1, or the extra noises to 0")
    finished: dict[int, torch.Tensor] = {}

    def evaluate(net: Network, bank: Bank, look: Look):
        walk, drifts = Walk(course, net, bank, look), []
        watch = (lambda x0: drifts.append(walk.drift(x0))) if settings.kl_weight else None
        if look.part:
            _noise_again(walk, finished[look.rows.start])
        else:
            walk.go_quietly_to(total - count)
        walk.go_to(total, watch)
        if not look.part:
            finished[look.rows.start] = walk.x.detach()
        rewards = walk.rewards(walk.x, note=look.part == 0)
        drift = torch.stack(drifts).mean(0) if drifts else torch.zeros_like(rewards)
        out = draft_loss(*known(rewards, drift), settings.kl_weight)
        return out.loss, numbers(kl=drift.mean()) if drifts else {}

    return course.train(policy, evaluate, optimizer, parts=1 + settings.extra_noises)


def _noise_again(walk: Walk, latents: torch.Tensor) -> None:
    """Puts finished latents back to the state before the last step, with fresh noise."""
    walk.at = walk.course.steps - 1
    noise = walk.course.fresh_noise(walk.look).to(latents.device)
    walk.x = walk.net.path.add_noise(latents, noise, walk.sigma(walk.at))
