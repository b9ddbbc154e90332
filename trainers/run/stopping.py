"""When a training ends before its iterations are done: rules that the user puts together."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from . import gate
from .held_out import MEAN, SECONDS, Fall, Falling
from .steering import WeightsSeen

KL, REACHED, PLATEAU = "KL is above", "reward reaches", "reward no longer rises"
MINUTES, IMAGES, ALARM = "minutes have passed", "images are made", "an alarm is raised"
HELD_REACHED, HELD_PLATEAU = "held-out reward reaches", "held-out reward no longer rises"
HELD_FALLS = "held-out reward falls while the trained one rises"
BLIND = "blind comparison is lost"
HELD_OUT = (HELD_REACHED, HELD_PLATEAU, HELD_FALLS, BLIND)
RULES = (KL, REACHED, PLATEAU, MINUTES, IMAGES, ALARM, *HELD_OUT)
WINDOW = 5  # iterations in a mean: one lucky or unlucky iteration ends nothing
NEEDS = {KL: ("kl", "the KL to your model"), REACHED: ("reward_mean", "a reward"), PLATEAU: ("reward_mean", "a reward"),
         IMAGES: ("images", "how many images it makes")}  # fmt: skip
REASONS = {
    KL: "its KL to your model is {value:.3g}, above the {limit:g} that was allowed",
    REACHED: "its reward has reached {limit:g}",
    PLATEAU: "its reward has not risen above {best:.4g} for {iterations} iterations",
    MINUTES: "it has trained for {value:.3g} minutes",
    IMAGES: "it has made {value:.0f} images",
    ALARM: "an alarm was raised: {alarm}",
    HELD_REACHED: "its held-out reward has reached {limit:g}",
    HELD_PLATEAU: "its held-out reward has not risen above {best:.4g} for {iterations} iterations",
    HELD_FALLS: "its held-out reward has fallen from {best:.4g} in iteration {until} to {now:.4g}, while the reward that it is "
    "trained on rises",
    BLIND: "its pictures were preferred in only {share:.0%} of {pairs:.0f} blind pairs, which is below even",
}
LOOKED = 3  # iterations after which a number that never came is missed


@dataclass(frozen=True)
class StopRule:
    """when: one of RULES. value: what it is about (KL; reward; least gain of the best mean; minutes; images; unused by an
    alarm). patience: iterations without a new best mean, for PLATEAU and HELD_PLATEAU."""

    CHOICES: ClassVar[dict] = {"when": RULES}
    when: str = PLATEAU
    value: float = 0.0
    patience: int = 30

    def __post_init__(self):
        if self.when not in RULES:
            raise ValueError(f"when: unknown {self.when!r}; use one of {', '.join(RULES)}")
        if not math.isfinite(self.value):
            raise ValueError(f"value: {self.value} is no number to stop at")
        if self.when in (KL, MINUTES, IMAGES) and self.value <= 0:
            raise ValueError(f"value: '{self.when}' {self.value:g} would stop at once; give a number above 0")
        if self.patience < 1:
            raise ValueError(f"patience: {self.patience} is not possible; choose 1 or more")


class Stopping:
    """``look(point, alarms)`` after every iteration gives the sentence with which a rule ends the run, or ""; ``why`` is what
    it tells, for a page in another language.

    points: those of the iterations that are done already, in a run that goes on. ``missing`` names a rule whose number the
    run does not have, so that it could never stop anything.
    """

    def __init__(self, rules: Sequence[StopRule], points: Iterable[dict] = ()):
        self.rules, self.ended, self._looked = tuple(rules), "", 0
        self.why: dict = {}
        self.missed: dict = {}
        self._recent: dict[str, deque[float]] = {}
        self._best, self._best_at, self._seconds, self._images = -math.inf, 0, 0.0, 0.0
        self._held, self._held_best, self._held_best_at = math.nan, -math.inf, 0
        self._falling, self._weights = Falling(), WeightsSeen()
        self._fall: Fall | None = None
        self._blind: dict = {}
        for point in points:
            self.look(point)

    def look(self, point: dict, alarms: Sequence[str] = ()) -> str:
        """point: "iteration", "seconds" and numbers by name, as in a line of metrics.jsonl; alarms: the sentences of new ones."""
        self._looked += 1
        self._seconds += point.get("seconds", 0.0) + point.get(SECONDS, 0.0)
        self._images += point.get("images", 0.0)
        if self._weights.changed(point):  # means under other weights are no measure for this reward
            self._recent.pop("reward_mean", None)
            self._best, self._best_at, self._falling = -math.inf, 0, Falling()
        for name in ("kl", "reward_mean"):
            if math.isfinite(point.get(name, math.nan)):
                self._recent.setdefault(name, deque(maxlen=WINDOW)).append(point[name])
        self._note_best(point["iteration"])
        self._note_held_out(point)
        self.why = next(
            ({"why": rule.when, **facts} for rule in self.rules if (facts := self._applies(rule, point["iteration"], alarms))),
            {},
        )
        self.ended = REASONS[self.why["why"]].format(**self.why) if self.why else ""
        return self.ended

    def missing(self) -> str:
        """The sentence on a rule that waits for a number which does not come, which ``missed`` names; "" where there is none."""
        for rule in self.rules:
            name, words = NEEDS.get(rule.when, ("", ""))
            known = self._images > 0 if name == "images" else name in self._recent
            if name and not known and self._looked == LOOKED:
                self.missed = {"rule": rule.when, "number": name}
                return (
                    f"The stop rule '{rule.when}' can never act: this training does not measure {words}. Switch it on (watch_kl "
                    "or beta in the trainer; wire the images to Loop End), or choose another rule."
                )
        return ""

    def _mean(self, name: str) -> float:
        values = self._recent.get(name, ())
        return sum(values) / len(values) if len(values) == WINDOW else math.nan

    def _note_best(self, iteration: int) -> None:
        mean = self._mean("reward_mean")
        gains = [rule.value for rule in self.rules if rule.when == PLATEAU]
        if mean > self._best + max(gains, default=0.0):
            self._best, self._best_at = mean, iteration

    def _note_held_out(self, point: dict) -> None:
        self._held, self._fall, self._blind = point.get(MEAN, math.nan), self._falling.look(point), point
        gains = [rule.value for rule in self.rules if rule.when == HELD_PLATEAU]
        if self._held > self._held_best + max(gains, default=0.0):
            self._held_best, self._held_best_at = self._held, point["iteration"]

    def _applies(self, rule: StopRule, iteration: int, alarms: Sequence[str]) -> dict | None:
        """What the sentence on why this rule ends the run tells; None where it does not."""
        when, value = rule.when, rule.value
        if when == KL and self._mean("kl") > value:
            return {"value": self._mean("kl"), "limit": value}
        if when == REACHED and self._mean("reward_mean") >= value or when == HELD_REACHED and self._held >= value:
            return {"limit": value}
        best, best_at = {HELD_PLATEAU: (self._held_best, self._held_best_at)}.get(when, (self._best, self._best_at))
        if when in (PLATEAU, HELD_PLATEAU) and best_at and iteration - best_at >= rule.patience:
            return {"best": best, "iterations": rule.patience}
        if when == MINUTES and self._seconds >= 60 * value:
            return {"value": self._seconds / 60}
        if when == IMAGES and self._images >= value:
            return {"value": self._images}
        if when == ALARM and alarms:
            return {"alarm": alarms[0]}
        if when == HELD_FALLS and self._fall is not None:
            return {"best": self._fall.best, "until": self._fall.until, "now": self._fall.now}
        if when == BLIND and self._blind.get(gate.HIGH, gate.EVEN) < gate.EVEN:
            return {"share": self._blind[gate.SHARE], "pairs": self._blind[gate.PAIRS]}
        return None
