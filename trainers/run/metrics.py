"""metrics.jsonl: one line per iteration, on the disk as soon as it is known."""
from __future__ import annotations

import errno
import json
import math
from pathlib import Path

from ...rewards.base.files import read_bytes


def read_metrics(path: Path, since: int = 0) -> list[dict]:
    """The lines of the iterations after ``since``; a line that was cut short or damaged is left out."""
    try:
        lines = read_bytes(path).split(b"\n")
    except OSError:
        return []
    points = (_parse(line) for line in lines)
    return [p for p in points if p is not None and p["iteration"] > since]


class MetricsFile:
    """Appends, after everything that a killed process or a newer iteration left behind ``iteration`` is cut off."""

    def __init__(self, path: Path, iteration: int):
        self._end = _end_of(path, iteration)
        # unbuffered, so that a full disk is seen here and half a line can be taken back
        self._file = open(path, "ab", buffering=0)
        self._file.truncate(self._end)
        self._waiting: list[bytes] = []

    def append(self, point: dict) -> None:
        """Raises OSError where the disk does not take it; the file then ends with a whole line, and what is missing is written
        as soon as there is room again."""
        self._waiting.append(json.dumps({k: _plain(v) for k, v in point.items()}).encode() + b"\n")
        while self._waiting:
            line = self._waiting[0]
            try:
                if self._file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, "the disk is full")
            except OSError:
                self._file.truncate(self._end)
                raise
            self._end += len(line)
            del self._waiting[0]

    def close(self) -> None:
        self._file.close()


def _end_of(path: Path, iteration: int) -> int:
    """The length of the file up to its last whole line of an iteration that is not after ``iteration``."""
    if not path.exists():
        return 0
    end = position = 0
    *whole, _cut = read_bytes(path).split(b"\n")
    for line in whole:
        position += len(line) + 1
        point = _parse(line)
        if point is not None and point["iteration"] <= iteration:
            end = position
    return end


def _parse(line: bytes) -> dict | None:
    try:
        point = json.loads(line)
        return point if isinstance(point["iteration"], int) else None
    except (ValueError, KeyError, TypeError):
        return None


def _plain(value):
    """JSON knows no NaN and no infinity, and a browser refuses them."""
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    value = float(value)
    return value if math.isfinite(value) else None


