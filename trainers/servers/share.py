"""Work shared among servers, of which any may be lost: what one has not finished, another one does again.

Each server has a thread of its own, which takes a task as soon as it has finished the one before. The thread that waits for all
hears a cancel, and takes a task away from a server that holds it for too long.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ...rewards.base.reward import RewardUnavailable

T = TypeVar("T")
GETTING_READY = -1
REST = 0.05  # seconds
NAMED = 3  # servers that are named of those that are lost for one reason


@dataclass(eq=False)
class Worker(Generic[T]):
    """A server. name: its address. prepare: makes it ready, once. do: (task number, stopped) -> its result. Both raise OSError or
    ValueError, in words, where this server cannot go on."""

    name: str
    prepare: Callable[[Callable[[], bool]], None]
    do: Callable[[int, Callable[[], bool]], T]
    task: int | None = GETTING_READY
    since: float = field(default_factory=time.monotonic)
    lost: str = ""
    busy: float = 0.0  # seconds at work, getting ready included


class Share(Generic[T]):
    """``Share(workers, count, seconds).results(...)``: the results of tasks 0 to count - 1, in their order. seconds: for which a
    server may hold one."""

    def __init__(self, workers: Sequence[Worker[T]], count: int, seconds: float):
        self.workers, self.count, self.seconds = workers, count, seconds
        self.done: dict[int, T] = {}
        self._waiting = deque(range(count))
        self._lock, self._over = threading.RLock(), False
        self._news = threading.Condition(self._lock)  # for the thread that waits for all
        self._work = threading.Condition(self._lock)  # for servers without a task; each has many others beside it

    def results(self, look: Callable[[], None], told: Callable[[dict[int, T]], None]) -> list[T]:
        """look: called all the time, raises where the user has cancelled; told: called with what is done, when that grows.

        Raises RewardUnavailable, so that a run pauses with its state saved, where every server is lost.
        """
        for worker in self.workers:
            threading.Thread(target=self._serve, args=(worker,), name=f"server {worker.name}", daemon=True).start()
        known = 0
        try:
            while known < self.count:
                look()
                with self._lock:
                    if len(self.done) == known:
                        self._news.wait(REST)
                    self._take_from_the_slow()
                    if all(worker.lost for worker in self.workers) and len(self.done) < self.count:
                        raise RewardUnavailable(self.words())
                    found = dict(self.done) if len(self.done) > known else {}
                if found:
                    known = len(found)
                    told(found)
        finally:
            with self._lock:
                self._over = True
                self._work.notify_all()
        return [self.done[task] for task in range(self.count)]

    def words(self) -> str:
        return (
            f"computers: none of the other computers is left, after {len(self.done)} of {self.count} prompts' images. "
            f"{self.reasons()}. Start one of them, then queue again: a training goes on from its saved state"
        )

    def reasons(self) -> str:
        """Who is lost, and why: those of one reason in one breath."""
        lost = self.lost()
        by_reason = {why: [name for name in lost if lost[name] == why] for why in lost.values()}
        return "; ".join(f"{several(names)}: {why}" for why, names in by_reason.items())

    def lost(self) -> dict[str, str]:
        """Why a server could not go on, by name."""
        return {worker.name: worker.lost for worker in self.workers if worker.lost}

    def busy(self) -> float:
        """Seconds for which a server was at work, the mean of all, lost ones included."""
        return sum(worker.busy for worker in self.workers) / len(self.workers)

    def _serve(self, worker: Worker[T]) -> None:
        def stopped() -> bool:
            return self._over or bool(worker.lost)

        try:
            with _counted(worker):
                worker.prepare(stopped)
            while (task := self._next(worker)) is not None:
                with _counted(worker):
                    result = worker.do(task, stopped)
                self._finished(worker, task, result)
        except Exception as error:
            self._lose(worker, str(error) or type(error).__name__)

    def _next(self, worker: Worker[T]) -> int | None:
        """A task, as soon as there is one; None where all is done."""
        with self._lock:
            worker.task = None
            while not (self._over or worker.lost or len(self.done) == self.count):
                if self._waiting:
                    worker.task, worker.since = self._waiting.popleft(), time.monotonic()
                    return worker.task
                self._work.wait()
        return None

    def _finished(self, worker: Worker[T], task: int, result: T) -> None:
        with self._lock:
            if not worker.lost:
                self.done[task] = result
            self._news.notify()
            if len(self.done) == self.count:
                self._work.notify_all()

    def _lose(self, worker: Worker[T], words: str) -> None:
        """Its task goes to the front: others may already be through with the rest."""
        with self._lock:
            if worker.lost or self._over:
                return
            worker.lost = words
            if worker.task is not None and worker.task != GETTING_READY and worker.task not in self.done:
                self._waiting.appendleft(worker.task)
            worker.task = None
            self._news.notify()
            self._work.notify_all()

    def _take_from_the_slow(self) -> None:
        """With the lock held."""
        late = time.monotonic() - self.seconds
        for worker in self.workers:
            if not worker.lost and worker.task is not None and worker.since < late:
                getting_ready = worker.task == GETTING_READY
                self._lose(
                    worker,
                    f"it took longer than {self.seconds:g} seconds "
                    f"{'to get ready' if getting_ready else 'for the images of a prompt'}",
                )


def several(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


@contextlib.contextmanager
def _counted(worker: Worker) -> Iterator[None]:
    begun = time.monotonic()
    try:
        yield
    finally:
        worker.busy += time.monotonic() - begun
