"""AlignProp (arXiv:2310.03739): like DRaFT, through a random number of the last steps, with an end."""
from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from .engine.limits import ABOVE_0, ANY
from .engine.reward_walk import Course, Look, Walk, known
from .engine.update import Optimizer, numbers
from .losses.draft import alignprop_loss
from .policy.network import Network
from .policy.value import Bank, Policy

TRUNCATIONS = ("gaussian", "uniform")
HIGHEST = "highest_mean_reward"


@dataclass(frozen=True)
class AlignProp:
    """AlignProp (arXiv:2310.03739). truncation: how the number of steps with gradient is drawn, see ``_truncated``;
    target: rewards are pulled to this value, None: up without bound; coefficient: factor of the loss; stop_at: mean
    reward of an iteration at which the run ends, None: never."""

    LIMITS: ClassVar[dict] = {"target": ANY, "coefficient": ABOVE_0, "stop_at": ANY}
    CHOICES: ClassVar[dict] = {"truncation": TRUNCATIONS}
    truncation: str = TRUNCATIONS[0]
    target: float | None = None
    coefficient: float = 0.01
    stop_at: float | None = None


def train_alignprop(policy: Policy, course: Course, settings: AlignProp, optimizer: Optimizer) -> Policy:
    """An AlignProp step. Once an iteration's mean reward has reached stop_at, "early_stopped" is 1 and the run ends; in a
    loop that goes on all the same, images are made and scored, but the policy rests."""
    if settings.truncation not in TRUNCATIONS:
        raise ValueError(f"truncation: unknown {settings.truncation!r}; use one of {', '.join(TRUNCATIONS)}")
    highest = policy.memory.get(HIGHEST)
    def reached(reward: float | None) -> bool:
        return settings.stop_at is not None and reward is not None and reward >= settings.stop_at

    if reached(highest):
        rested = course.only_look(policy)
        return replace(rested, metrics={**rested.metrics, "early_stopped": 1})
    total = course.steps

    def evaluate(net: Network, bank: Bank, look: Look):
        walk, count = Walk(course, net, bank, look), _truncated(settings.truncation, total, course.draw(look))
        walk.go_quietly_to(total - count)
        walk.go_to(total)
        out = alignprop_loss(*known(walk.rewards(walk.x)), settings.target, settings.coefficient)
        return out.loss, numbers(saturated=out.saturated, backpropagated_steps=count)

    new = course.train(policy, evaluate, optimizer)
    mean = course.stats()["reward_mean"]
    best = mean if highest is None or mean > highest else highest
    # a mean that is no number (every reward failed) is not remembered
    memory = {**new.memory, HIGHEST: best} if best == best else new.memory
    return replace(new, memory=memory, metrics={**new.metrics, "early_stopped": int(reached(mean))})


def _truncated(kind: str, total: int, random: torch.Generator) -> int:
    """How many of the last steps carry gradient, 1 to ``total``. gaussian: the official mean and deviation of the cut,
    42 and 5 of 50 steps, scaled to ``total``; uniform: any number is as likely."""
    if kind == "uniform":
        cut = int(torch.randint(total, (), generator=random))
    else:
        cut = round(total * (0.84 + 0.1 * float(torch.randn((), generator=random))))
    return total - min(max(cut, 0), total - 1)
