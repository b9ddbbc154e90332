"""Several rewards at once: evaluating the members of a composite, and their plain weighted sum.

The sum adds raw scores, so the member with the widest range decides (the ensemble normalises first).
"""
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.reward import (
    Judgement,
    Prompt,
    Reward,
    RewardInfo,
    added_up,
    as_reward,
    compares,
    counts_of,
    evaluate,
    groups_of,
    networks_of,
)
from ..base.words import brief


@dataclass(frozen=True)
class WeightedSum:
    """sum_k weight_k * score_k. An image that a member with a weight could not score is NaN in the sum."""

    members: tuple[tuple[Reward, float], ...]
    __repr__ = brief

    def __post_init__(self):
        if not self.members:
            raise ValueError("Connect at least one reward.")
        object.__setattr__(self, "members", tuple((as_reward(reward), weight) for reward, weight in self.members))

    @property
    def info(self) -> RewardInfo:
        infos = [r.info for r, _ in self.members]
        ends = [ordered(i.low, i.high, w) for i, (_, w) in zip(infos, self.members)]
        names = " + ".join(f"{w:g} x {i.name}" for i, (_, w) in zip(infos, self.members))
        return RewardInfo(f"sum ({names})", total([e[0] for e in ends]), total([e[1] for e in ends]),
                          any(i.needs_prompt for i in infos), all(i.differentiable for i in infos),
                          "Weighted sum of raw scores.")

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return self.evaluate(images, prompts, groups_of(prompts)).values

    def evaluate(self, images: Tensor, prompts: Sequence[Prompt], groups: Tensor) -> Judgement:
        found, shown = evaluate_members([r for r, _ in self.members], images, prompts, groups)
        named = zip(unique_names([r.info.name for r, _ in self.members]), self.members)
        return Judgement(weighted_sum(found, [w for _, w in self.members]), shown,
                          weights={name: w for name, (_, w) in named if w != 0})

    def counts(self) -> dict[str, float]:
        return merged_counts([r for r, _ in self.members])

    def steered_weights(self) -> dict[str, float]:
        return {name: w for name, (_, w) in zip(unique_names([r.info.name for r, _ in self.members]), self.members)}

    def with_weights(self, weights: Mapping[str, float]) -> WeightedSum:
        names = unique_names([r.info.name for r, _ in self.members])
        return WeightedSum(tuple((r, weights.get(name, w)) for name, (r, w) in zip(names, self.members)))

    def networks(self) -> list:
        return all_networks([r for r, _ in self.members])

    @property
    def compares(self) -> bool:
        return any(compares(r) for r, _ in self.members)


def evaluate_members(rewards: Sequence[Reward], images: Tensor, prompts: Sequence[Prompt], groups: Tensor,
                     watched: Collection[int] = ()) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The value [B] of each reward in order, and the scores to show: also what is inside of members that are
    composites themselves ("outer / inner"). watched: numbers of members that never carry gradient."""
    found, shown = [], {}
    for i, (name, reward) in enumerate(zip(unique_names([r.info.name for r in rewards]), rewards)):
        with torch.set_grad_enabled(torch.is_grad_enabled() and i not in watched):
            result = evaluate(reward, images, prompts, groups)
        found.append(result.values)
        shown[name] = result.values
        if is_composite(result):
            shown.update({f"{name} / {inner}": v for inner, v in result.members.items() if inner != reward.info.name})
    return found, shown


def merged_counts(rewards: Sequence[Reward]) -> dict[str, float]:
    """What the members count, added up by name."""
    return added_up([counts_of(reward) for reward in rewards])


def all_networks(rewards: Sequence[Reward]) -> list:
    """The holders behind the members, each once."""
    return list(dict.fromkeys(holder for reward in rewards for holder in networks_of(reward)))


def weighted_sum(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """[B] on the CPU; members of weight 0 are left out entirely, so that their NaN does not spread."""
    used = [v.cpu().double() * w for v, w in zip(values, weights) if w != 0]
    return torch.stack(used).sum(0) if used else torch.zeros(len(values[0]), dtype=torch.float64)


def unique_names(names: Sequence[str]) -> list[str]:
    """The names in order; a repeated one gets its number ("clip", "clip 2")."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return result


def is_composite(result: Judgement) -> bool:
    """True if there is more to show than the value itself."""
    return len(result.members) > 1


def ordered(low: float | None, high: float | None, weight: float) -> tuple[float | None, float | None]:
    """Ends of weight * [low, high]; None = unbounded."""
    if weight == 0:
        return 0.0, 0.0
    ends = (None if low is None else low * weight, None if high is None else high * weight)
    return ends if weight > 0 else ends[::-1]


def total(ends: Sequence[float | None]) -> float | None:
    return None if any(e is None for e in ends) else float(sum(ends))
