"""A question to a person whose pictures and votes lie with a process that trains elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any


class FarQuestion:
    """told: as /posttrain/ratings has it; ask: an order, for its answer. As RatingRequest (rating.py) to whoever rates."""

    def __init__(self, told: dict, ask: Callable[[dict], Any]):
        self.id, self.told = str(told["id"]), told
        self._ask_there, self._pictures = ask, {}

    def _ask(self, act: str, **more) -> Any:
        return self._ask_there({"do": "rate", "question": self.id, "act": act, **more})

    def image(self, row: int) -> bytes | None:
        if row not in self._pictures and (sent := self._ask("image", row=row)) is not None:
            self._pictures[row] = base64.b64decode(sent)
        return self._pictures.get(row)

    def vote(self, votes: dict[int, int], client: str = "") -> None:
        self.told = self._ask("vote", votes=votes, client=client)

    def tie(self, number: int, client: str = "") -> None:
        self.told = self._ask("tie", number=number, client=client)

    def take(self, client: str, done: int | None = None) -> dict:
        return self._ask("take", client=client, done=done)

    def finish(self, how: str) -> None:
        self._ask("finish", how=how)

    def plain(self) -> dict:
        return self.told
