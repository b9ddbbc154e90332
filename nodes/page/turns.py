"""Who rates which sheet of a question: two tabs and a phone work on one queue, and no two of them see the same sheet at a time.

A sheet is lent to one client until it is judged or passed over; a client that is not heard of for LEASE seconds loses it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LEASE = 60.0  # seconds; the page is heard of every ten
LONGEST = 100  # characters of a client's name


class Turns:
    """count: of sheets; is_judged: whether a sheet has all the votes that it can have; clock: seconds."""

    def __init__(self, count: int, is_judged: Callable[[int], bool], clock: Callable[[], float] = time.monotonic):
        self._count, self._is_judged, self._clock = count, is_judged, clock
        self._owner: dict[int, str] = {}
        self._until: dict[int, float] = {}
        self._passed = {sheet for sheet in range(count) if is_judged(sheet)}  # in an earlier session: anybody's
        self._lock = threading.Lock()

    def take(self, client: str, done: int | None = None) -> dict:
        """The client's sheet now, the next one where it has judged or passed over (``done``) the one that it had.

        {"sheet": number or None, "trail": its earlier sheets, to go back to, "left": sheets that nobody has, "elsewhere": sheets
        that others have}. ValueError where the client has no name, or ``done`` is not its own.
        """
        if not client or len(client) > LONGEST:
            raise ValueError("client: it is no client's name")
        with self._lock:
            if done is not None:
                self._check(done, client)
                self._owner.setdefault(done, client)
                self._passed.add(done)
            self._passed |= {sheet for sheet in self._owner if self._is_judged(sheet)}
            open_ = [sheet for sheet in range(self._count) if sheet not in self._passed]
            mine = next((sheet for sheet in open_ if self._owner.get(sheet) == client), None)
            free = [sheet for sheet in open_ if self._is_free(sheet)]
            if mine is None and free:
                mine = free.pop(0)
                self._owner[mine] = client
            if mine is not None:
                self._until[mine] = self._clock() + LEASE
            trail = [sheet for sheet in sorted(self._passed) if self._owner.get(sheet, client) == client]
            left = len([sheet for sheet in free if sheet != mine])
            return {"sheet": mine, "trail": trail, "left": left, "elsewhere": len(open_) - left - (mine is not None)}

    def check(self, sheet: int, client: str) -> None:
        """Before a vote. ValueError where another client has this sheet, or has judged it: one changes one's own only."""
        with self._lock:
            self._check(sheet, client)
            self._owner.setdefault(sheet, client)  # yesterday's votes are those of whoever changes them first

    def _check(self, sheet: int, client: str) -> None:
        if not 0 <= sheet < self._count:
            raise ValueError("done: there is no such sheet")
        finished = sheet in self._passed or self._is_judged(sheet)
        if self._owner.get(sheet, client) != client and (finished or not self._is_free(sheet)):
            raise ValueError("somebody else is rating these images, or has rated them; go on with the next ones")

    def _is_free(self, sheet: int) -> bool:
        return self._until.get(sheet, 0.0) <= self._clock() or sheet not in self._owner
