"""Work that goes on beside a run, for its next iteration, and ends with it. Without a run nothing comes next."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token


class Beside:
    """iterations: of the run that is under way, in all."""

    def __init__(self, iterations: int):
        self.iterations = iterations
        self._ends: list[Callable[[], None]] = []

    def add(self, end: Callable[[], None]) -> None:
        if end not in self._ends:
            self._ends.append(end)

    def close(self) -> None:
        for end in self._ends:
            end()


_run: ContextVar[Beside | None] = ContextVar("posttrain_beside", default=None)


def collect(iterations: int) -> tuple[Beside, Token]:
    """-> what ends with a run of so many iterations, and a token for ``end``."""
    found = Beside(iterations)
    return found, _run.set(found)


def end(found: Beside, token: Token) -> None:
    _run.reset(token)
    found.close()


def comes(iteration: int) -> bool:
    """Whether the run that is under way comes to this iteration, unless it is ended before."""
    run = _run.get()
    return run is not None and iteration < run.iterations


def ends_with_the_run(end: Callable[[], None]) -> None:
    """Has ``end`` called, in any way in which the run may end."""
    run = _run.get()
    if run is not None:
        run.add(end)
