"""DRTune (arXiv:2405.00760): early steps learn too, since the network's input is cut off from the gradient."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from .engine.limits import FROM_0, FROM_1
from .engine.reward_walk import Course, Look, Walk, checked_count, known
from .engine.update import Optimizer
from .losses.draft import draft_loss
from .policy.network import Network
from .policy.value import Bank, Policy


@dataclass(frozen=True)
class DRTune:
    """DRTune (arXiv:2405.00760). steps: K, evenly spaced steps that are trained; early_stop: how many of the last steps
    may be left out, by chance."""

    LIMITS: ClassVar[dict] = {"steps": FROM_1.of("trained steps"), "early_stop": FROM_0}
    steps: int = 3
    early_stop: int = 2


def train_drtune(policy: Policy, course: Course, settings: DRTune, optimizer: Optimizer) -> Policy:
    """A DRTune step: the network's input is cut off from the gradient at every step, its output is not."""
    total = course.steps
    checked_count("trained steps", settings.steps, total)
    if not 0 <= settings.early_stop < total:
        raise ValueError(f"early stop: {settings.early_stop} of {total} sampling steps cannot be left out; choose 0 to "
                         f"{total - 1}")

    def evaluate(net: Network, bank: Bank, look: Look):
        walk, random = Walk(course, net, bank, look), course.draw(look)
        last = total - 1 - int(torch.randint(settings.early_stop + 1, (), generator=random))
        out = draft_loss(*known(walk.rewards(tuned(walk, spaced(settings.steps, last, random), last))))
        return out.loss, {}

    return course.train(policy, evaluate, optimizer)


def tuned(walk: Walk, trained: set[int], last: int) -> torch.Tensor:
    """The clean estimate at step ``last``, with gradient from the predictions of the ``trained`` steps.

    The state stays a linear function of every prediction, so each receives the reward's gradient times a known factor:
    minus the step's length in sigma for flow and noise prediction.
    """
    while True:
        state, sigma, path = walk.x.detach(), walk.sigma(walk.at), walk.net.path
        with torch.set_grad_enabled(torch.is_grad_enabled() and walk.at in trained):
            prediction = path.prediction(state, walk.denoised(state), sigma)
        x0 = path.x0(walk.x, prediction, sigma)
        if walk.at == last:
            return x0
        walk.move(x0)


def spaced(count: int, last: int, random: torch.Generator) -> set[int]:
    """``count`` evenly spaced steps of 0 to ``last`` (all where there are not more), from a random first one."""
    count = min(count, last + 1)
    stride = (last + 1) // count
    first = int(torch.randint(last + 1 - (count - 1) * stride, (), generator=random))
    return {first + k * stride for k in range(count)}
