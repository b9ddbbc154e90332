"""What a user should know about a run besides its curves: sentences that are said once, and whether it learned at all."""

from __future__ import annotations

import math

from .alarms import Alarm, Series

LEFT_OUT, FEWER, SHOWS = "steps_left_out", "updates_left_out", "lora_shows"
LITTLE = 0.5  # of a LoRA's effect
PATIENCE = 5  # iterations in which a LoRA may be too small to show
GUESSING = 0.55  # a share of pairs told apart that a guess reaches as well


def _left_out(steps: float) -> str:
    return (
        f"{steps:.0f} of the random steps are taken without noise: this scheduler ends with levels so close to 0 that the "
        "pictures could never lose the noise again. Nothing is wrong; to train these steps too, choose the scheduler "
        "'simple'."
    )


def _fewer_updates(updates: float) -> str:
    return (
        f"{updates:.0f} of the updates per rollout that were asked for are not made: each takes at least one batch, and what "
        "there is to learn from fills fewer batches. Nothing is lost; for more updates choose a smaller batch size or more "
        "images."
    )


def _too_small(shown: float) -> str:
    return (
        f"After {PATIENCE} iterations the LoRA is still so small that only about {100 * shown:.0f} % of its effect shows: "
        "the model computes in too low a precision, so the pictures hardly tell what was learned. Use float16 weights instead "
        "of bfloat16 where the model allows it, or a higher learning rate."
    )


SENTENCES = {LEFT_OUT: _left_out, FEWER: _fewer_updates, SHOWS: _too_small}


class Notices:
    """``look(point)`` after every iteration gives what is new to say; ``nothing_learned`` is the reason at the end, or ""."""

    def __init__(self):
        self._said: set[str] = set()
        self._iterations = self._updated = self._skipped = self._no_pairs = 0
        self._accuracy = Series()

    def look(self, point: dict) -> list[Alarm]:
        """point: "iteration" and numbers by name, as in a line of metrics.jsonl."""
        self._count(point)
        new = [name for name in SENTENCES if name not in self._said and self._applies(name, point.get(name))]
        self._said.update(new)
        return [Alarm(name, SENTENCES[name](point[name]), {"value": point[name]}) for name in new]

    def _applies(self, name: str, value: float | None) -> bool:
        if name == SHOWS:
            return value is not None and value < LITTLE and self._iterations >= PATIENCE
        return bool(value)

    def _count(self, point: dict) -> None:
        self._iterations += 1
        self._updated += point.get("updates", 1) > 0  # a policy that does not say so has learned
        self._skipped += point.get("skipped_updates", 0) > 0
        self._no_pairs += point.get("pairs", 1) == 0
        accuracy = point.get("accuracy", math.nan)
        if math.isfinite(accuracy):
            self._accuracy.add(point["iteration"], accuracy)

    def nothing_learned(self) -> str:
        if self._iterations and not self._updated:
            return f"It has learned nothing: in none of {self._iterations} iterations were the weights updated. " + self._why()
        told_apart = self._accuracy.now
        if told_apart is not None and not self._accuracy.rises and told_apart.mean < GUESSING:
            return (
                f"It has learned next to nothing: it still tells the better image of a pair from the worse in only "
                f"{100 * told_apart.mean:.0f} % of cases, as a guess would. Raise the learning rate, train longer, or "
                "look whether the pairs differ in what you want."
            )
        return ""

    def _why(self) -> str:
        if self._skipped == self._iterations:
            return (
                "Every update was skipped, since the reward or the loss was not a number. Look at the reward on such "
                "images, or lower the learning rate."
            )
        if self._no_pairs == self._iterations:
            return "No pair came out of the scores. Use more images per prompt, or a reward that tells them apart."
        return (
            "The images of a prompt all had the same score. Use more images per prompt, more noise, or a reward that tells "
            "them apart."
        )
