"""Alarms in words: what goes wrong in a training while its curve may still look well.

The first iterations of a run are compared with the newest ones. A number counts as changed where its mean over WINDOW
iterations moved by more than CERTAIN standard errors, with the spread that it has from one iteration to the next; for a
picture's number the change has to be one that can be seen, too. Known ways of gaming a reward that these numbers show: more
and more colour or light, grain and grids, blank backgrounds, one picture for every prompt (arXiv:2505.05470); one reward of
an ensemble that is bought with another (over-optimisation, arXiv:2210.10760).
"""
from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...rewards.base.words import brief
from .held_out import Fall, Falling
from .steering import WeightsSeen

WINDOW = 5
CERTAIN = 6.0
LOST = 0.5   # of the reward's gain

ADVICE = ("If you did not ask for that, the reward is being gamed. Look at the samples; then add a reward that punishes it, "
          "raise beta (the weight of the KL), or use fewer iterations.")
REWARD, PART, HELD_OUT = "reward_mean", "reward/", "held_out"


@dataclass(frozen=True)
class Alarm:
    """text: the sentence in English. kind ("pictures", "fall", "part", "held_out", "looks" or "away") and values: for a page in
    another language."""

    kind: str
    text: str
    values: dict
    __repr__ = brief


def for_page(alarms: Sequence[Alarm]) -> dict:
    """The first of several alarms among the values of a sentence that tells of it."""
    return {"because": {"text": alarms[0].text, "alarm": alarms[0].kind, "values": alarms[0].values}} if alarms else {}


@dataclass(frozen=True)
class Visible:
    """What can be seen of a picture's number: a difference, or a ratio, above which the pictures look different.

    more, less: how they have become; None where that is no reason for an alarm."""

    visible: float
    ratio: bool
    more: str | None
    less: str | None

    def word(self, first: float, now: float) -> str | None:
        if self.ratio:
            more, less = now > first * self.visible, now * self.visible < first
        else:
            more, less = now > first + self.visible, now < first - self.visible
        return self.more if more else self.less if less else None


LOOKS = {
    "picture_brightness": Visible(0.15, False, "much brighter", "much darker"),
    "picture_contrast": Visible(1.5, True, "much higher in contrast", "much lower in contrast"),
    "picture_colourfulness": Visible(25.0, False, "much more colourful", "much greyer"),
    "picture_detail": Visible(1.6, True, "much busier or noisier in fine detail", "much poorer in fine detail"),
    "picture_variety": Visible(1.6, True, None, "much more alike"),
}


@dataclass(frozen=True)
class Window:
    """The mean of one number over WINDOW iterations, the last of which is ``until``."""

    mean: float
    until: int


class Series:
    """One number over the iterations: its first window, the one with the highest mean, and the newest, which is None
    until it shares no iteration with the first."""

    def __init__(self):
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._count, self._steps = 0, 0.0
        self.first: Window | None = None
        self.best: Window | None = None
        self.now: Window | None = None

    def add(self, iteration: int, value: float) -> None:
        if self._recent:
            self._steps += (value - self._recent[-1]) ** 2
        self._recent.append(value)
        self._count += 1
        if self._count < WINDOW:
            return
        window = Window(sum(self._recent) / WINDOW, iteration)
        self.first = self.first or window
        self.best = window if self.best is None or window.mean > self.best.mean else self.best
        self.now = window if self._count >= 2 * WINDOW else None

    def above(self, high: Window, low: Window) -> bool:
        """Whether one window lies so far above another that it cannot be chance."""
        # the spread from one iteration to the next: a slow rise does not add to it, all iterations do
        variance = self._steps / (2 * (self._count - 1))
        return high.mean > low.mean and high.mean - low.mean > CERTAIN * math.sqrt(2 * variance / WINDOW)

    @property
    def rises(self) -> bool:
        return self.now is not None and self.above(self.now, self.first)

    @property
    def falls(self) -> bool:
        return self.now is not None and self.above(self.first, self.now)


class Alarms:
    """``look(point)`` after every iteration gives the alarms that are new; each is given once in a run.

    points: those of the iterations that are done already, in a run that goes on; what they tell was said before.
    """

    def __init__(self, points: Iterable[dict] = ()):
        self._series: dict[str, Series] = {}
        self._given: set[tuple] = set()
        self._falling, self._weights = Falling(), WeightsSeen()
        for point in points:
            self.look(point)

    def look(self, point: dict) -> list[Alarm]:
        """point: "iteration" and numbers by name, as in a line of metrics.jsonl; whatever is not a number is left out."""
        if self._weights.changed(point):  # it is another reward, not a better or worse one
            self._series.pop(REWARD, None)
            self._falling = Falling()
        for name, value in point.items():
            if name == REWARD or name in LOOKS or name.startswith(PART):
                if isinstance(value, (int, float)) and math.isfinite(value):
                    self._series.setdefault(name, Series()).add(point["iteration"], value)
        found = [*self._found(), *_not_learned(self._falling.look(point))]
        return [alarm for key, alarm in found if not (key in self._given or self._given.add(key))]

    def _found(self) -> Iterable[tuple[tuple, Alarm]]:
        """What is wrong at the moment, each with what makes it the same alarm as an earlier one."""
        for name, series in self._series.items():
            if series.now is None:
                continue
            if name in LOOKS:
                alarm = _changed_look(name, series)
            elif name == REWARD:
                alarm = _fallen(series)
            else:
                alarm = _bought(name.removeprefix(PART), series, self._series.get(REWARD))
            if alarm is not None:
                yield (name, alarm.values.get("word")), alarm


def _changed_look(name: str, series: Series) -> Alarm | None:
    first, now = series.first, series.now
    word = LOOKS[name].word(first.mean, now.mean)
    if word is None or not (series.rises or series.falls):
        return None
    return Alarm("pictures", f"The pictures have become {word} than at the start ({name.removeprefix('picture_')} "
                 f"{first.mean:.3g}, now {now.mean:.3g}). {ADVICE}",
                 {"word": word, "number": name, "first": first.mean, "now": now.mean})


def _fallen(series: Series) -> Alarm | None:
    first, best, now = series.first, series.best, series.now
    if best.mean - now.mean <= LOST * (best.mean - first.mean) or not series.above(best, now):
        return None
    return Alarm("fall", f"The reward has fallen from {best.mean:.3g} (around iteration {best.until}) to {now.mean:.3g}. "
                 f"Usually the learning rate is too high: halve it and start over, or train for {best.until} iterations "
                 "only.", {"best": best.mean, "until": best.until, "now": now.mean})


def _not_learned(fall: Fall | None) -> Iterable[tuple[tuple, Alarm]]:
    if fall is not None:
        yield (HELD_OUT, None), Alarm(
            HELD_OUT, f"On held-out prompts the reward has fallen from {fall.best:.3g} (iteration {fall.until}) to "
            f"{fall.now:.3g}, while on the prompts that are trained it rises: they are learned by heart. Use the policy of that "
            "iteration, more prompts, or fewer iterations.", {"best": fall.best, "until": fall.until, "now": fall.now})


def _bought(name: str, series: Series, total: Series | None) -> Alarm | None:
    if total is None or not total.rises or not series.falls:
        return None
    return Alarm("part", f"The reward rises, but its part '{name}' falls (from {series.first.mean:.3g} to "
                 f"{series.now.mean:.3g}): the others are bought with it. Give it more weight, or a limit that must be "
                 "kept.", {"name": name, "first": series.first.mean, "now": series.now.mean})
