"""When a training ends before its iterations are done: rules that the user puts together."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from .held_out import MEAN, SECONDS, Fall, Falling
from .steering import WeightsSeen

KL, REACHED, PLATEAU = "KL is above", "reward reaches", "reward no longer rises"
MINUTES, IMAGES, ALARM = "minutes have passed", "images are made", "an alarm is raised"
HELD_REACHED, HELD_PLATEAU = "held-out reward reaches", "held-out reward no longer rises"
HELD_FALLS = "held-out reward falls while the trained one rises"
HELD_OUT = (HELD_REACHED, HELD_PLATEAU, HELD_FALLS)
RULES = (KL, REACHED, PLATEAU, MINUTES, IMAGES, ALARM, *HELD_OUT)
WINDOW = 5  # iterations in a mean: one lucky or unlucky iteration ends nothing
NEEDS = {KL: ("kl", "the KL to your model"), REACHED: ("reward_mean", "a reward"), PLATEAU: ("reward_mean", "a reward"),
         IMAGES: ("images", "how many images it makes")}  # fmt: skip
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
    """``look(point, alarms)`` after every iteration gives the sentence with which a rule ends the run, or "".

    points: those of the iterations that are done already, in a run that goes on. ``missing`` names a rule whose number the
    run does not have, so that it could never stop anything.
    """

    def __init__(self, rules: Sequence[StopRule], points: Iterable[dict] = ()):
        self.rules, self.ended, self._looked = tuple(rules), "", 0
        self._recent: dict[str, deque[float]] = {}
        self._best, self._best_at, self._seconds, self._images = -math.inf, 0, 0.0, 0.0
        self._held, self._held_best, self._held_best_at = math.nan, -math.inf, 0
        self._falling, self._weights = Falling(), WeightsSeen()
        self._fall: Fall | None = None
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
        self.ended = next((said for rule in self.rules if (said := self._applies(rule, point["iteration"], alarms))), "")
        return self.ended

    def missing(self) -> str:
        """The sentence on a rule that waits for a number which does not come; "" where there is none."""
        for rule in self.rules:
            name, words = NEEDS.get(rule.when, ("", ""))
            known = self._images > 0 if name == "images" else name in self._recent
            if name and not known and self._looked == LOOKED:
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
        self._held, self._fall = point.get(MEAN, math.nan), self._falling.look(point)
        gains = [rule.value for rule in self.rules if rule.when == HELD_PLATEAU]
        if self._held > self._held_best + max(gains, default=0.0):
            self._held_best, self._held_best_at = self._held, point["iteration"]

    def _applies(self, rule: StopRule, iteration: int, alarms: Sequence[str]) -> str:
        if rule.when == KL and self._mean("kl") > rule.value:
            return f"its KL to your model is {self._mean('kl'):.3g}, above the {rule.value:g} that was allowed"
        if rule.when == REACHED and self._mean("reward_mean") >= rule.value:
            return f"its reward has reached {rule.value:g}"
        if rule.when == PLATEAU and self._best_at and iteration - self._best_at >= rule.patience:
            return f"its reward has not risen above {self._best:.4g} for {rule.patience} iterations"
        if rule.when == MINUTES and self._seconds >= 60 * rule.value:
            return f"it has trained for {self._seconds / 60:.3g} minutes"
        if rule.when == IMAGES and self._images >= rule.value:
            return f"it has made {self._images:.0f} images"
        if rule.when == ALARM and alarms:
            return f"an alarm was raised: {alarms[0]}"
        return self._held_out_applies(rule, iteration)

    def _held_out_applies(self, rule: StopRule, iteration: int) -> str:
        if rule.when == HELD_REACHED and self._held >= rule.value:
            return f"its held-out reward has reached {rule.value:g}"
        if rule.when == HELD_PLATEAU and self._held_best_at and iteration - self._held_best_at >= rule.patience:
            return f"its held-out reward has not risen above {self._held_best:.4g} for {rule.patience} iterations"
        if rule.when == HELD_FALLS and self._fall is not None:
            return (
                f"its held-out reward has fallen from {self._fall.best:.4g} in iteration {self._fall.until} to "
                f"{self._fall.now:.4g}, while the reward that it is trained on rises"
            )
        return ""
