"""What a user asks of a run while it trains: pause and go on, pictures, a checkpoint or an end now, another number.

Orders come from any thread; the session carries them out between two iterations, so a training is what it would have been
without them, but for the numbers that they change. Those are kept in the policy's memory: a run that goes on later, even in
another process, goes on with them, until its settings are changed in the workflow.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...rewards.base.reweighted import TOLD, told_before

PAUSE, GO_ON, SAMPLE, CHECKPOINT, STOP = "pause", "go on", "sample", "checkpoint", "stop"
ONCE = (SAMPLE, CHECKPOINT, STOP)
LEARNING_RATE, KL_WEIGHT = "learning rate", "KL weight"
WEIGHT = "weight of "  # before a reward's name; among the numbers of a step TOLD stands there
NUMBERS = {LEARNING_RATE: ("optimizer.learning_rate",), KL_WEIGHT: ("method.kl_weight", "method.beta")}
LEAST, MOST = -100.0, 1e3
ORDERS = (PAUSE, GO_ON, *ONCE, *NUMBERS)
# of these "beta" is the weight of the KL; elsewhere it is a temperature, which is no knob to turn while it trains
BETA_IS_KL = ("FlowGRPO", "AWM")
KNOBS, OF = "knobs", "of"  # in a policy's memory; the settings that they were turned under
TICK = 0.1  # seconds between two looks at Cancel

_open: dict[Path, Steering] = {}
_lock = threading.Lock()


class NotTraining(LookupError):
    """The run is not trained by this process at the moment."""


class Steering:
    """The orders of one run. ``with Steering(folder) as steering`` while it trains."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._waiting: dict[str, float | None] = {}
        self._changed = threading.Condition()
        self.paused = False  # whether it waits at this moment
        self.numbers: dict[str, float] = {}  # what can be changed, as it is now

    def __enter__(self) -> Steering:
        self._folder = self._folder.resolve()
        with _lock:
            _open[self._folder] = self
        return self

    def __exit__(self, *_) -> None:
        with _lock:
            if _open.get(self._folder) is self:
                del _open[self._folder]

    def order(self, what: str, value: float | None = None) -> None:
        """ValueError where it is no order, or this training has no such number."""
        if what not in ORDERS and not what.startswith(WEIGHT):
            raise ValueError(f"do: '{what}' is unknown; use one of {', '.join(ORDERS)}, or '{WEIGHT}' and a reward's name")
        if is_number(what):
            self._check(what, value)
        with self._changed:
            if what == GO_ON:
                self._waiting.pop(PAUSE, None)
            elif what == STOP:  # a pause must not stand in its way
                self._waiting.pop(PAUSE, None)
                self._waiting[what] = None
            else:
                self._waiting[what] = value
            self._changed.notify_all()

    def _check(self, what: str, value: float | None) -> None:
        if what not in self.numbers:
            raise ValueError(f"do: this training has no {what} that could be changed, or its first iteration is not done yet")
        least = LEAST if what.startswith(WEIGHT) else 0
        known = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if value is None or not known or not least <= value <= MOST:
            raise ValueError(f"value: {value!r} is no {what}; give a number from {least:g} to {MOST:g}")
        if what.startswith(WEIGHT) and value == 0 and not any(self._weights_besides(what)):
            raise ValueError("value: with every weight 0 nothing would be rewarded; raise another one first")

    def _weights_besides(self, what: str) -> list[float]:
        """The weights of the other rewards, as they are asked for or are now."""
        with self._changed:
            coming = {**self.numbers, **self._waiting}
        return [float(value or 0) for name, value in coming.items() if name.startswith(WEIGHT) and name != what]

    def take(self, what: str) -> bool:
        """Whether that was asked for; it is then taken as done."""
        with self._changed:
            return self._waiting.pop(what, self) is not self

    def take_numbers(self) -> dict[str, float]:
        """The numbers that shall be changed, each told once."""
        with self._changed:
            asked = [name for name in self._waiting if is_number(name)]
            return {name: float(self._waiting.pop(name)) for name in asked}  # type: ignore[arg-type]

    @property
    def asked(self) -> list[str]:
        """What waits to be done, for a page."""
        with self._changed:
            return sorted(self._waiting, key=lambda name: ORDERS.index(name) if name in ORDERS else len(ORDERS))

    def pause(self, check_cancelled: Callable[[], None]) -> None:
        """Waits as long as a pause is asked for, or until check_cancelled raises."""
        self.paused = True
        try:
            with self._changed:
                while PAUSE in self._waiting:
                    check_cancelled()
                    self._changed.wait(TICK)
        finally:
            self.paused = False

    def plain(self) -> dict:
        """As JSON."""
        return {"paused": self.paused, "asked": self.asked, "numbers": dict(self.numbers)}


def steering_of(folder: Path) -> Steering:
    """Raises NotTraining."""
    with _lock:
        found = _open.get(folder.resolve())
    if found is None:
        raise NotTraining(f"the run '{folder.name}' is not being trained by this ComfyUI at the moment; queue its workflow, then "
                          "ask again")  # fmt: skip
    return found


def state_of(folder: Path) -> dict | None:
    """What a page shows of a run that this process trains; None of any other."""
    with _lock:
        found = _open.get(folder.resolve())
    return found.plain() if found is not None else None


class WeightsSeen:
    """Whether the weights of rewards are others than an iteration before."""

    def __init__(self):
        self._seen: dict[str, float] | None = None

    def changed(self, point: dict) -> bool:
        """point: the numbers of an iteration."""
        now = told_before(point)
        before, self._seen = self._seen, now
        return before is not None and before != now


def is_number(what: str) -> bool:
    return what in NUMBERS or what.startswith(WEIGHT)


def numbers_of(policy: Any) -> dict[str, float]:
    """The numbers that can be changed while this policy is trained, as its last train step used them."""
    used = getattr(policy, "numbers", None) or {}
    known: dict = used.get("numbers", {})
    found: dict[str, float] = {}
    for name, places in NUMBERS.items():
        for place in places:
            if place in known and (place != "method.beta" or used.get("method", "").startswith(BETA_IS_KL)):
                found.setdefault(name, float(known[place]))
    told = {WEIGHT + name.removeprefix(TOLD): float(value) for name, value in told_before(policy.metrics).items()}
    return found | told


def asked_weights(policy: Any) -> dict[str, float]:
    """The weights of rewards that were changed while this policy is trained, by the reward's name."""
    knobs = policy.memory.get(KNOBS, {})
    return {name.removeprefix(WEIGHT): value for name, value in knobs.items() if name.startswith(WEIGHT)}


def turned(policy: Any, numbers: dict[str, float], fingerprint: str) -> Any:
    """The policy with these numbers for its next train steps. fingerprint: of the settings that it is trained with."""
    knobs = {**policy.memory.get(KNOBS, {}), **numbers, OF: fingerprint}
    return replace(policy, memory={**policy.memory, KNOBS: knobs})


def let_go(policy: Any, fingerprint: str) -> tuple[Any, dict[str, float]]:
    """-> the policy without numbers that were changed under other settings, and what they were."""
    memory = getattr(policy, "memory", None) or {}
    knobs = dict(memory.get(KNOBS, {}))
    if not knobs or knobs.pop(OF, None) == fingerprint:
        return policy, {}
    return replace(policy, memory={key: value for key, value in memory.items() if key != KNOBS}), knobs
