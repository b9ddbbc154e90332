"""What is known of changes: those that alter nothing, and what earlier runs found."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from .mutations import Mutant, mutants

ROOT = Path(__file__).resolve().parent.parent
KNOWN = ROOT / "tools" / "mutants.txt"  # a line each: file | function | old -> new | reason


class Results:
    """What was noticed in earlier runs, and which lines a test file's tests reach; kept in the cache folder."""

    def __init__(self, anew: bool = False):
        folder = os.environ.get("POSTTRAIN_CACHE")
        self.folder = Path(folder) / "mutants" if folder else Path(tempfile.mkdtemp())
        self.folder.mkdir(parents=True, exist_ok=True)
        self.noticed = self.folder / "noticed.jsonl"
        rows = self.noticed.read_text().splitlines() if self.noticed.is_file() and not anew else []
        self.rows = {tuple(row[:3]): row[3:] for row in map(json.loads, rows)}

    def noticed_by(self, file: Path, mutant: Mutant) -> str | None:
        """The test that noticed the change in an earlier run, when neither it nor the module has changed since."""
        test, state = self.rows.get((digest(file), mutant.function, mutant.change), (None, None))
        return test if test and state == test_state(test) else None

    def keep(self, file: Path, mutant: Mutant, test: str) -> None:
        with self.noticed.open("a") as out:
            out.write(json.dumps([digest(file), mutant.function, mutant.change, test, test_state(test)]) + "\n")

    def reach(self, test: Path, find: Callable[[], dict]) -> dict[str, list]:
        """{test: [seconds, {file: lines}]} of a test file, found anew when it or anything below it has changed."""
        state = hashlib.sha256(f"{test.relative_to(ROOT)} {digest(test)} {surroundings()}".encode()).hexdigest()
        kept = self.folder / f"reach-{state[:32]}.json"
        if not kept.is_file():
            kept.write_text(json.dumps(find()))
        return json.loads(kept.read_text())


def digest(*files: Path) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def test_state(test: str) -> str:
    file = ROOT / test.split("::")[0]
    return digest(file) if file.is_file() else ""


@cache
def surroundings() -> str:
    """Of all that a test may run besides its own file: the pack and what tests share."""
    left_out = {"tools", "benchmarks", "docs"}
    return digest(
        *sorted(
            file
            for file in ROOT.rglob("*.py")
            if file.relative_to(ROOT).parts[0] not in left_out and not file.name.startswith("test_")
        )
    )


def known(path: Path) -> set[tuple[str, str, str]]:
    """(file, function, change) of the entries that give a reason."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    rows = [[part.strip() for part in line.split(" | ")] for line in lines if line.strip() and not line.startswith("#")]
    return {(row[0], row[1], row[2]) for row in rows if len(row) == 4 and row[3]}


def stale(path: Path, files: Iterable[Path]) -> int:
    """Prints the entries for these files that fit no change, and those for files that are gone; gives their number."""
    examined = {file.relative_to(ROOT).as_posix(): file for file in files}
    there = {
        (name, mutant.function, mutant.change)
        for name, file in examined.items()
        for mutant in mutants(file.read_text(encoding="utf-8"), str(file))
    }
    old = [row for row in sorted(known(path)) if (row[0] in examined and row not in there) or not (ROOT / row[0]).is_file()]
    for row in old:
        print(f"  {path.name}: fits nothing any more: {' | '.join(row)}", flush=True)
    return len(old)
