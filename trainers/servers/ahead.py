"""The images of the next iteration, drawn by other computers while this one trains."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

T = TypeVar("T", covariant=True)
REST = 0.02  # seconds


class Ended(Exception):
    """Nobody waits for these images any more."""


class Draws(Protocol[T]):
    def drawn(self, look: Callable[[], None], told: Callable[..., None]) -> T: ...

    def same_as(self, other) -> bool: ...


class UnderWay(Generic[T]):
    """A drawing in a thread of its own."""

    def __init__(self, drawing: Draws[T]):
        self.drawing = drawing
        self._results: list[T] = []
        self._errors: list[BaseException] = []
        self._news: tuple = ()
        self._over = False
        self._thread = threading.Thread(target=self._draw, name="the next iteration's images", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Its computers are free from here on."""
        self._over = True
        self._thread.join()

    def result(self, look: Callable[[], None], told: Callable[..., None]) -> T:
        known: tuple = ()
        try:
            while self._thread.is_alive():
                look()
                if self._news is not known:
                    known = self._news
                    told(*known)
                self._thread.join(REST)
        except BaseException:
            self.end()
            raise
        if self._errors:
            raise self._errors[0]
        return self._results[0]

    def _draw(self) -> None:
        try:
            self._results.append(self.drawing.drawn(self._look, self._told))
        except BaseException as error:
            self._errors.append(error)

    def _look(self) -> None:
        if self._over:
            raise Ended

    def _told(self, *news) -> None:
        self._news = news


class Ahead(Generic[T]):
    """At most one drawing under way."""

    def __init__(self):
        self._under_way: UnderWay[T] | None = None

    def begin(self, drawing: Draws[T]) -> None:
        self.end()
        self._under_way = UnderWay(drawing)

    def end(self) -> None:
        if self._under_way is not None:
            self._under_way.end()
            self._under_way = None

    def result(self, drawing: Draws[T], look: Callable[[], None], told: Callable[..., None]) -> T:
        """What this drawing gives: of the one under way, where that gives the same, else it is drawn now."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None and drawing.same_as(under_way.drawing):
            return under_way.result(look, told)
        if under_way is not None:
            under_way.end()
        return drawing.drawn(look, told)
