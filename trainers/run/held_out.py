"""The same held-out prompts again and again while a run trains: is it getting better where it was not trained?

A reward that rises on its own prompts and falls on others has been learned by heart, or gamed. What is measured goes into the
iteration's line of metrics.jsonl; the base model's scores, which never change, and the best iteration into held_out.json.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ...rewards.base.files import read_bytes, written_whole
from ...rewards.base.words import brief
from .aside import BEST as BEST_FOLDER
from .checkpoints import BrokenCheckpoint, list_checkpoints, load_checkpoint, save_checkpoint
from .gallery import Changed, changed_looks, looks_of
from .gate import Gate

FILE = "held_out.json"
MEAN, BASE, GAIN, ERROR, SECONDS = "held_out_reward", "held_out_base", "held_out_gain", "held_out_error", "held_out_seconds"
LAST, BEST = "the last", "the best on held-out prompts"
HAND_OUT = (LAST, BEST)
CERTAIN = 2.0  # standard errors
WINDOW = 5  # iterations that the trained reward's mean is over
AWAY = "away"  # of the alarms that were told


@dataclass(frozen=True)
class Fall:
    """The best held-out mean, its iteration, and the newest mean."""

    best: float
    until: int
    now: float


class Falling:
    """``look(point)`` gives a Fall as soon as the held-out reward lies below its best while the trained reward lies above what
    it was then, by two measurements in a row that chance does not explain."""

    def __init__(self):
        self._trained: deque[float] = deque(maxlen=WINDOW)
        self._best: tuple[float, float, int, float] | None = None  # gain, mean, iteration, trained reward
        self._before = False

    def look(self, point: dict) -> Fall | None:
        """point: a line of metrics.jsonl."""
        if math.isfinite(point.get("reward_mean", math.nan)):
            self._trained.append(point["reward_mean"])
        gain, error = point.get(GAIN, math.nan), point.get(ERROR, math.nan)
        if not math.isfinite(gain) or not self._trained:
            return None
        trained = _mean(self._trained)
        if self._best is None or gain > self._best[0]:
            self._best, self._before = (gain, point[MEAN], point["iteration"], trained), False
            return None
        best, mean, iteration, before = self._best
        falls, self._before = self._before, best - gain > CERTAIN * error and trained > before
        return Fall(mean, iteration, point[MEAN]) if falls and self._before else None


@dataclass(frozen=True)
class MovedAway:
    """The reward has risen, and with it the distance of that name. first, now: before training and at the moment."""

    name: str
    first: float
    now: float
    alarm: ClassVar[str] = AWAY
    __repr__ = brief

    @property
    def values(self) -> dict:
        return {"name": self.name, "first": self.first, "now": self.now}

    @property
    def text(self) -> str:
        return (
            f"On held-out prompts the reward has risen and {self.name} too (from {self.first:.3g} to {self.now:.3g}): the "
            "pictures move away from what they are compared with. If you did not ask for that, the reward is being gamed: look "
            "at the held-out pictures beside those of your model."
        )


class HeldOutCurve:
    """The measurements of one run.

    evaluation: ``every`` (iterations), ``hand_out`` (one of HAND_OUT), ``identity`` (a text that changes with whatever changes
    the numbers) and ``measure(policy, compare, known)``, which gives ``scores`` and, where compare is asked for, ``base``, each
    with ``values`` [N], ``images`` and ``base_images`` [N, H, W, 3], ``prompts``, those of the images, ``evaluations``, the
    network's on one image, and, where distances of the pictures are asked for, ``apart``; ``known`` is handed to the next
    measurement of the session. Where it has ``blind``, see Gate, the best is what passes that gate.
    iteration: where the run goes on from; what was measured after it is forgotten.
    """

    def __init__(self, evaluation: Any, folder: Path, iteration: int):
        self._evaluation, self._folder = evaluation, folder
        self._state = _known(folder / FILE, evaluation.identity)
        if (best := self._state.get("best")) and best["iteration"] > iteration:
            del self._state["best"]
        self.seconds = 0.0  # of the newest measurement
        self.texts: Sequence[str] = ()  # prompts of its pictures
        self.changed: list[Changed | MovedAway] = []  # what it was the first to find
        self._features: Any = None  # not kept on the disk: made again where a run goes on
        self._gate = None if getattr(evaluation, "blind", None) is None else Gate(evaluation)

    @property
    def every(self) -> int:
        return self._evaluation.every

    @property
    def best(self) -> tuple[int, float] | None:
        """(iteration, mean) of the best measurement so far."""
        best = self._state.get("best")
        return (best["iteration"], best["mean"]) if best else None

    def due(self, iteration: int, last: bool) -> bool:
        return last or iteration % self.every == 0

    def measure(self, policy: Any, iteration: int) -> tuple[dict[str, float], dict[int, Any], str]:
        """-> numbers for the iteration's line, pictures [N, H, W, 3] by iteration, where 0 is the model before training, and
        what the user should know, or ""."""
        begun, first = time.monotonic(), "base" not in self._state
        found = self._evaluation.measure(policy, first, self._features)
        self._features, self.texts = found.known, [prompt.text for prompt in found.prompts]
        pictures = {iteration: found.images}
        if first:
            self._state["base"] = _plain(found.base.values)
            self._state["looks"] = looks_of(found.base_images)
            pictures[0] = found.base_images
        numbers = _numbers(_plain(found.scores.values), self._state["base"])
        self._note(changed_looks(self._state["looks"], looks_of(found.images)), _moved_away(found.apart, numbers))
        numbers |= _distances(found.apart)
        judged, blind = self._judged(policy, found, iteration)
        numbers |= judged
        self.seconds = time.monotonic() - begun
        self._measured = (iteration, numbers[MEAN])
        said = (
            f"Held-out prompts: {len(found.images)} images every {self.every} iterations, {found.evaluations:,} network "
            f"evaluations each time. Before training they score {numbers[BASE]:.4g}."
        )
        if found.apart is not None:
            said += f" Distances: {'; '.join(found.apart.lines())}."
        return numbers | {SECONDS: round(self.seconds, 3)}, pictures, " ".join(filter(None, (said if first else "", blind)))

    def _judged(self, policy: Any, found: Any, iteration: int) -> tuple[dict[str, float], str]:
        """What the gate says of the newest pictures."""
        if self._gate is None:
            return {}, ""
        best = self.best if self._gate.against_best else None
        if self._gate.others is None:
            kept = None if best is None else self._loaded(policy, best[0])
            if kept is not None:
                self._gate.others = self._evaluation.measure(kept, False, self._features).images
            else:
                base = found.base_images if found.base_images is not None else self._evaluation.measure(
                    policy, True, self._features).base_images  # fmt: skip
                self._gate.others = base
        return self._gate.judge(found, iteration, f"iteration {best[0]}" if best else "the model before training")

    def _note(self, looks: Sequence[Changed], away: MovedAway | None) -> None:
        """What is to be said, each once in a run."""
        told = self._state.setdefault("told", [])
        found = {look.name: look for look in looks} | ({AWAY: away} if away is not None else {})
        self.changed = [each for key, each in found.items() if key not in told]
        told += [key for key in found if key not in told]

    def keep(self, policy: Any) -> None:
        """Writes down what was measured last, and the policy where it is the best so far. Raises OSError or SaveFailed."""
        iteration, mean = self._measured
        if math.isfinite(mean) and self._is_better(mean):
            if self._gate is not None:
                self._gate.moved()
            folder = self._folder / BEST_FOLDER
            kept = save_checkpoint(folder, iteration, *policy.state())
            self._state["best"] = {"iteration": iteration, "mean": mean}
            for _, path in list_checkpoints(folder):
                if path != kept:
                    path.unlink(missing_ok=True)
        with written_whole(self._folder / FILE) as beside:
            beside.write_text(json.dumps(self._state | {"identity": self._evaluation.identity}), encoding="utf-8")

    def _is_better(self, mean: float) -> bool:
        if self._gate is not None and (self._gate.against_best or not self._gate.passed):
            return self._gate.passed
        return self.best is None or mean > self.best[1]

    def _loaded(self, policy: Any, iteration: int) -> Any:
        """The policy that was kept as the best; None where it cannot be read."""
        try:
            _, tensors, meta = load_checkpoint(dict(list_checkpoints(self._folder / BEST_FOLDER))[iteration])
        except (BrokenCheckpoint, KeyError) as error:
            self._unreadable = str(error)
            return None
        return policy.with_state(tensors, meta)

    def handed_out(self, policy: Any) -> tuple[Any, str]:
        """-> the policy that the run gives, and a sentence on it. policy: the last one."""
        if self.best is None:
            gated = self._gate is not None and self._evaluation.hand_out == BEST
            return policy, "No policy was judged better than your model: the last one is handed out." if gated else ""
        iteration, mean = self.best
        if self._evaluation.hand_out != BEST:
            return policy, f"Best on held-out prompts: {mean:.4g}, in iteration {iteration}."
        kept = self._loaded(policy, iteration)
        if kept is None:
            return policy, (
                f"Best on held-out prompts: {mean:.4g}, in iteration {iteration}, but its checkpoint cannot be read "
                f"({self._unreadable}): the last policy is handed out."
            )
        return kept, (
            f"Best on held-out prompts: {mean:.4g}, in iteration {iteration}: the policy of that iteration is handed out."
        )


def _known(file: Path, identity: str) -> dict:
    """What an earlier session of the run measured on the same prompts in the same way."""
    try:
        state = json.loads(read_bytes(file))
        return state if state["identity"] == identity else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _moved_away(apart: Any, numbers: dict[str, float]) -> MovedAway | None:
    """Where reward and FID have both risen by more than chance explains."""
    fid = None if apart is None else apart.rising_fid
    if fid is None or not numbers[GAIN] > CERTAIN * numbers[ERROR]:
        return None
    return MovedAway(fid.name, fid.before, fid.after)


def _distances(apart: Any) -> dict[str, float]:
    """As they are now, under "held_out_fid" and so on."""
    distances = apart.distances if apart is not None else ()
    return {f"held_out_{each.name.split()[0].lower()}": each.after for each in distances}


def _plain(values: Any) -> list[float | None]:
    return [float(value) if math.isfinite(value) else None for value in values]


def _numbers(values: Sequence[float | None], base: Sequence[float | None]) -> dict[str, float]:
    """Means, and the gain over the base with the standard error of the paired difference."""
    pairs = [(now, before) for now, before in zip(values, base, strict=True) if now is not None and before is not None]
    gains = [now - before for now, before in pairs]
    gain = _mean(gains)
    spread = sum((each - gain) ** 2 for each in gains) / (len(gains) - 1) if len(gains) > 1 else math.nan
    known = [value for value in values if value is not None]
    return {
        MEAN: _mean(known),
        BASE: _mean([value for value in base if value is not None]),
        GAIN: gain,
        ERROR: math.sqrt(spread / len(gains)) if gains else math.nan,
    }


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known) if known else math.nan
