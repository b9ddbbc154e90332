"""Weights of a reward that is made of others, as a user may change them while a policy is trained.

Rewards with weights have ``steered_weights() -> {name: weight}`` and ``with_weights({name: weight}) -> reward``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TOLD = "weight/"  # before a member's name, among a step's numbers


def weights_of(reward: Any) -> dict[str, float]:
    """By the member's name; {} where a reward has none."""
    return dict(reward.steered_weights()) if hasattr(reward, "steered_weights") else {}


def reweighted(reward: Any, wanted: Mapping[str, float]) -> Any:
    """The reward with those of the weights that it has; the one that came in is unchanged."""
    own = weights_of(reward)
    new = {name: float(wanted[name]) for name in own if name in wanted}
    return reward.with_weights({**own, **new}) if new else reward


def told(reward: Any) -> dict[str, float]:
    """The weights as numbers of a step, for the curve and for whoever steers."""
    return {TOLD + name: weight for name, weight in weights_of(reward).items()}


def told_before(stats: Mapping[str, float]) -> dict[str, float]:
    """Those of them that are among the numbers of a step."""
    return {name: value for name, value in stats.items() if name.startswith(TOLD)}
