"""Where the time of an iteration goes: sampling, decoding, scoring, training. Whoever works says what at; a run collects it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

SAMPLING, DECODING, SCORING, TRAINING = WORK = ("sampling", "decoding", "scoring", "training")
SAMPLERS, JUDGES = "samplers", "judges"  # what others have worked meanwhile


class Stopwatch:
    """Seconds by kind of work since they were taken last; work within other work is counted once, as what it is."""

    def __init__(self):
        self._spent: dict[str, float] = {}
        self._within = [0.0]  # for each work under way: seconds that were other work's

    @contextmanager
    def running(self, work: str) -> Iterator[None]:
        begun = time.monotonic()
        self._within.append(0.0)
        try:
            yield
        finally:
            whole = time.monotonic() - begun
            self._spent[work] = self._spent.get(work, 0.0) + whole - self._within.pop()
            self._within[-1] += whole

    def add(self, work: str, seconds: float) -> None:
        """Work that was done elsewhere, while this one did its own."""
        self._spent[work] = self._spent.get(work, 0.0) + seconds

    def take(self) -> dict[str, float]:
        spent, self._spent = self._spent, {}
        return spent


_watch: ContextVar[Stopwatch | None] = ContextVar("posttrain_stopwatch", default=None)


def collect():
    """-> a stopwatch that what follows is timed by, and a token for ``end``."""
    watch = Stopwatch()
    return watch, _watch.set(watch)


def end(token) -> None:
    _watch.reset(token)


@contextmanager
def timed(work: str) -> Iterator[None]:
    """For a block, or as ``@timed(work)`` for a function; work: one of WORK. Without a run it costs and counts nothing."""
    watch = _watch.get()
    if watch is None:
        yield
        return
    with watch.running(work):
        yield


def note(work: str, seconds: float) -> None:
    """Seconds that others have worked. Without a run it counts nothing."""
    if (watch := _watch.get()) is not None:
        watch.add(work, seconds)
