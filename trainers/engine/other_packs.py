"""Trainers of other packs: what such a value says of itself, and the tools that its step is handed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

from ...rewards.base.words import brief
from ..feedback.advantages import Advantages
from ..feedback.labels import Labels
from ..feedback.pairs import Preferences
from ..losses.error import squared_error
from ..policy.value import Policy
from .renoise import Renoised, noised, paired, usable
from .replay import train_on_trajectory
from .update import Optimizer, numbers, update

LEARNS_FROM = {"advantages": Advantages, "pairs": Preferences, "thumbs": Labels, "nothing": None}
NEEDS = ("latents", "trajectory")
# handed over and not imported, so that no pack depends on another one's folder; docs/other_packs.md lists them
TOOLS = SimpleNamespace(
    update=update,
    noised=noised,
    paired=paired,
    Renoised=Renoised,
    usable=usable,
    numbers=numbers,
    squared_error=squared_error,
    train_on_trajectory=train_on_trajectory,
)


@dataclass(frozen=True)
class Foreign:
    """A trainer of another pack in the place of a method's settings."""

    value: Any
    name: str
    learns_from: type | None
    needs: str
    __repr__ = brief

    def step(self, policy: Policy, rollout, feedback, settings, optimizer: Optimizer, progress: Callable | None) -> Policy:
        new = self.value.step(TOOLS, policy, rollout, feedback, optimizer, progress)
        if not isinstance(new, Policy):
            raise ValueError(
                f"trainer: the step of {self.name} answered {type(new).__name__}; it must answer the new policy, "
                "as tools.update makes it (docs/other_packs.md)"
            )
        return new


def foreign(value: Any) -> tuple[Foreign, Optimizer]:
    """ValueError where the value has no step, or says something of itself that does not exist."""
    name = getattr(value, "name", type(value).__name__)
    if not callable(getattr(value, "step", None)) or isinstance(value, type):
        raise ValueError(
            f"trainer: {name} is no trainer; connect a node from the menu PostTrain > 6 Trainers, or a value with "
            "a step as docs/other_packs.md says"
        )
    learns_from = _known(name, "learns_from", getattr(value, "learns_from", "advantages"), LEARNS_FROM)
    needs = _known(name, "needs", getattr(value, "needs", "latents"), NEEDS)
    settings = dict(getattr(value, "optimizer", {}))
    for each in settings:
        _known(name, "optimizer", each, [field.name for field in fields(Optimizer)])
    return Foreign(value, name, LEARNS_FROM[learns_from], needs), Optimizer(**settings)


def _known(name: str, what: str, value, known) -> str:
    if value not in known:
        raise ValueError(f"trainer: {name} has {value!r} as {what}; known are {', '.join(known)}")
    return value
