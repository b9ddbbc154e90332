"""Pairs that come back turned round: how often a rater gives the same answer to the same two images.

again.jsonl beside the votes, one line for each answer to a pair that was shown a second time: {"id", "pair_id", "prompt",
"alike": true or false, "time"}. The last line of an id counts. These answers are no votes: the first one stands.
"""

from __future__ import annotations

import contextlib
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .vote_book import SeenPair, append_line, read_records

FILE = "again.jsonl"
EVERY = 10  # of so many pairs one comes back


@dataclass(frozen=True)
class Consistency:
    """Of ``of`` pairs that were shown twice, ``alike`` had the same answer."""

    alike: int
    of: int

    def text(self) -> str:
        return f"Pairs that came back turned round, answered alike: {self.alike} of {self.of}." if self.of else ""


class Returns:
    """What came back in one folder of votes, and what shall."""

    def __init__(self, folder: Path):
        self._file = Path(folder) / FILE
        records, self._torn = read_records(self._file)
        self._known: dict[str, dict] = {}
        for record in records:
            with contextlib.suppress(KeyError, TypeError):  # written by hand
                if isinstance(record["alike"], bool):
                    self._known[str(record["id"])] = {"pair_id": str(record["pair_id"]), "alike": record["alike"]}

    def due(self, pairs: Sequence[SeenPair], sheets: int) -> list[SeenPair]:
        """Of the pairs that were judged before, those to show again in a question of so many sheets: a tenth, by chance."""
        been = {record["pair_id"] for record in self._known.values()}
        owed = len(pairs) // EVERY - len(been)
        new = [pair for pair in pairs if pair.id not in been]
        return random.sample(new, max(0, min(owed, len(new), math.ceil(sheets / EVERY))))

    def note(self, id: str, pair: SeenPair, alike: bool) -> None:
        """Keeps an answer, on the disk too; another one of the same id replaces it. Raises OSError."""
        record = {"id": id, "pair_id": pair.id, "prompt": pair.prompt, "alike": alike, "time": round(time.time(), 3)}
        append_line(self._file, record, self._torn)
        self._torn = False
        self._known[id] = record

    def consistency(self) -> Consistency:
        answers = [record["alike"] for record in self._known.values()]
        return Consistency(sum(answers), len(answers))
