"""SRPO (arXiv:2509.06942): images judged from any noise level, since the noise that was added is known and taken off.

The reward is relative: how much better the image fits a wanted wording of its prompt than an unwanted one. The settings'
control words stand before the prompt, as in the official code: "Realistic photo. <prompt>".
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from .engine.limits import ANY, FROM_0_TO_1, INSIDE_0_1
from .engine.reward_walk import Course, Look, Walk, known
from .engine.update import Optimizer, numbers
from .losses.srpo import direct_align, relative_reward, srpo_loss
from .noise.paths import Path
from .noise.transitions import deterministic
from .policy.network import Network
from .policy.uploads import uploaded
from .policy.value import Bank, Policy

# with almost no image left in x, undoing the noise would magnify the network's error a hundred times and more
LARGEST_FLOW_SIGMA = 0.99
DENOISING, INVERSION = 0, 1
# extra weight of a look's first wording where the least noise is drawn and where the most is; the official values
EXTRA = {DENOISING: (0.1, 0.25), INVERSION: (0.3, 0.01)}


@dataclass(frozen=True)
class SRPO:
    """wanted, unwanted: control words; earliest, latest: part of the way, 0 to 1, between which the noise level is
    drawn; length: of the one step, as part of the way; threshold: relative rewards from here on give no gradient."""

    LIMITS: ClassVar[dict] = {"earliest": FROM_0_TO_1, "latest": FROM_0_TO_1, "length": INSIDE_0_1, "threshold": ANY}
    wanted: str = "Realistic photo"
    unwanted: str = "CG Render"
    earliest: float = 0.1
    latest: float = 0.5
    length: float = 0.1
    threshold: float = 0.7


def train_srpo(policy: Policy, course: Course, settings: SRPO, optimizer: Optimizer) -> Policy:
    """An SRPO step: images are made without gradient, then looked at twice, one step down in noise and one step up. Both
    walk the same stretch; the official code's two stretches meet at the level where they end. Evaluations per image: T + 2."""
    _check(course, settings)
    finished: dict[int, torch.Tensor] = {}

    def evaluate(net: Network, bank: Bank, look: Look):
        walk = Walk(course, net, bank, look)
        if look.part == DENOISING:
            with torch.no_grad():
                walk.go_to(course.steps)
                walk.rewards(walk.x)
            finished[look.rows.start] = walk.x
        place = _place(settings, course.draw(look))
        high, low = (_level(walk, p) for p in (place, place + settings.length))
        levels = (high, low) if look.part == DENOISING else (low, high)
        x0 = aligned(net.path, walk.denoised, finished[look.rows.start], walk.noise, *levels)
        (rewards,) = known(_relative(walk, settings, x0, extra_weight(look.part, settings, place)))
        out = srpo_loss(rewards, settings.threshold)
        report = numbers(saturated=out.saturated)
        return out.loss, report | (numbers(relative_reward=out.reward) if look.part == DENOISING else {})

    return course.train(policy, evaluate, optimizer, parts=2)


def aligned(path: Path, ask: Callable, x0: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor,
            sigma_next: torch.Tensor) -> torch.Tensor:
    """x0 [B, ...] noised to ``sigma`` [B], one step of the network to ``sigma_next``, the known noise taken off.

    ask(x, sigma): the network's clean estimate. A perfect one gives x0 back, at any noise level and in both directions.
    """
    x = path.add_noise(x0, noise, sigma)
    x_next = deterministic()(path, x, ask(x, sigma), sigma, sigma_next).mean
    return direct_align(x_next, noise, *path.coefficients(sigma_next))


def extra_weight(part: int, settings: SRPO, place: float) -> float:
    """k of the relative reward, between its two values as ``place`` is between latest and earliest."""
    little, much = EXTRA[part]
    return little + (much - little) * (settings.latest - place) / max(settings.latest - settings.earliest, 1e-9)


def _relative(walk: Walk, settings: SRPO, x0: torch.Tensor, extra: float) -> torch.Tensor:
    """[B]: the relative reward of the images of ``x0``; up in noise, where a step works backwards, with roles swapped."""
    images, prompts = walk.images(x0), [walk.course.prompts.prompts[int(i)] for i in walk.index]
    wordings = [settings.wanted, settings.unwanted]
    if walk.look.part == INVERSION:
        wordings.reverse()
    text, control = (walk.judged(images, [replace(p, text=f"{words}. {p.text}") for p in prompts])[""]
                     for words in wordings)
    # a score is linear in the text's features, so scores may stand for them: features of one dimension
    k = torch.tensor(extra, device=text.device)
    return relative_reward(torch.ones_like(text)[:, None], text[:, None], control[:, None], k)


def _place(settings: SRPO, random: torch.Generator) -> float:
    return settings.earliest + (settings.latest - settings.earliest) * float(torch.rand((), generator=random))


def _level(walk: Walk, place: float) -> torch.Tensor:
    """[B]: the sampler's sigma at this part of the way, between its steps on a straight line."""
    sigmas = walk.plan.sigmas
    at = min(place * (len(sigmas) - 1), len(sigmas) - 1 - 1e-6)
    sigma = torch.lerp(sigmas[int(at)], sigmas[int(at) + 1], at - int(at))
    if walk.net.path.name == "flow":
        sigma = sigma.clamp(max=LARGEST_FLOW_SIGMA)
    return uploaded(sigma, walk.net.device).expand(walk.look.size)


def _check(course: Course, settings: SRPO) -> None:
    if not course.reward.info.needs_prompt:
        raise ValueError(f"reward: SRPO compares two wordings of the prompt, but '{course.reward.info.name}' looks at the "
                         "image alone; use a reward that reads the prompt (CLIPScore, PickScore, HPSv2, ImageReward), or "
                         "DRaFT")
    if not (0 <= settings.earliest <= settings.latest and settings.length > 0
            and settings.latest + settings.length < 1):
        raise ValueError(f"earliest, latest, length: {settings.earliest:g}, {settings.latest:g} and {settings.length:g} must "
                         "be parts of the way: the earliest not after the latest, and latest plus length below 1")
    if settings.wanted.strip() == settings.unwanted.strip():
        raise ValueError("wanted, unwanted: the two wordings are the same, so no image could be better than another; "
                         "describe what you want and what you do not want")
