"""metrics.jsonl: one line per iteration, on the disk as soon as it is known."""
from __future__ import annotations

import errno
import json
import math
from contextlib import suppress
from pathlib import Path

from ...rewards.base.files import read_bytes
from .thinning import extremes, thin

BLOCK = 1 << 16  # bytes that the end of a file is read in, the first time
TAIL = 8192  # bytes that hold the last few lines
STRETCH = 20  # iterations that one line of the coarse curve stands for
COARSE = "metrics_coarse.jsonl"


def read_metrics(path: Path, since: int = 0) -> list[dict]:
    """The lines of the iterations after ``since``; a line that was cut short or damaged is left out. Of a long file only its
    end is read where that holds them all."""
    size = BLOCK if since else 1 << 62
    while True:
        lines, whole = _end(path, size)
        points = _parsed(lines)
        if whole or points and points[0]["iteration"] <= since:
            return [point for point in points if point["iteration"] > since]
        size *= 8


def last_points(path: Path, count: int = 5) -> list[dict]:
    """The last whole lines, the newest last, without reading the rest."""
    points: list[dict] = []
    for line in reversed(_end(path, TAIL)[0]):
        point = _parse(line) if len(points) < count else None
        if point is not None:
            points.append(point)
    return points[::-1]


def curve(path: Path, since: int, most: int) -> tuple[list[dict], int]:
    """-> at most ``most`` points of the iterations after ``since``, and how many iterations one pair of them stands for."""
    pairs = [] if since else _coarse(path)
    if 2 * len(pairs) < most:
        return thin(read_metrics(path, since), most)
    points, factor = thin([point for pair in pairs for point in pair], most)
    newest = read_metrics(path, points[-1]["iteration"])
    return [*points, *newest], factor * STRETCH // 2


def _coarse(path: Path) -> list[list[dict]]:
    found = []
    for line in _end(path.with_name(COARSE), 1 << 62)[0]:
        try:
            pair = json.loads(line)
            found += [pair] if isinstance(pair, list) and all(isinstance(point["iteration"], int) for point in pair) else []
        except (ValueError, KeyError, TypeError):
            continue
    return [pair for pair in found if pair]


def _end(path: Path, size: int) -> tuple[list[bytes], bool]:
    """The lines in the last ``size`` bytes, and whether these are all there are. A pipe would be waited for: it has none."""
    if not path.is_file():
        return [], True
    try:
        with open(path, "rb") as file:
            start = max(0, file.seek(0, 2) - size)
            file.seek(start)
            lines = file.read().split(b"\n")
    except OSError:
        return [], True
    return (lines[1:], False) if start else (lines, True)  # the first one is cut


def _parsed(lines: list[bytes]) -> list[dict]:
    return [point for point in map(_parse, lines) if point is not None]


class MetricsFile:
    """Appends, after everything that a killed process or a newer iteration left behind ``iteration`` is cut off."""

    def __init__(self, path: Path, iteration: int):
        self._end = _end_of(path, iteration)
        # unbuffered, so that a full disk is seen here and half a line can be taken back
        self._file = open(path, "ab", buffering=0)
        self._file.truncate(self._end)
        self._waiting: list[bytes] = []
        self._coarse = _CoarseFile(path.with_name(COARSE), read_metrics(path))

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
        self._coarse.add(point)

    def close(self) -> None:
        self._file.close()


class _CoarseFile:
    """Beside a long curve: for each STRETCH of iterations one line with its extremes, so that it opens at once. It is made anew
    from ``points``, those that are there. Where the disk does not take it, there is none: the curve itself says it all."""

    def __init__(self, path: Path, points: list[dict]):
        self._path = path
        whole = len(points) - len(points) % STRETCH
        lines = [extremes(points[start : start + STRETCH]) for start in range(0, whole, STRETCH)]
        self._stretch, self._kept = points[whole:], True
        path.unlink(missing_ok=True)
        self._write(lines)

    def add(self, point: dict) -> None:
        self._stretch.append({name: _plain(value) for name, value in point.items()})
        if len(self._stretch) == STRETCH:
            self._write([extremes(self._stretch)])
            self._stretch = []

    def _write(self, pairs: list[list[dict]]) -> None:
        if not pairs or not self._kept:
            return
        try:
            with open(self._path, "ab", buffering=0) as file:
                file.write(b"".join(json.dumps(pair).encode() + b"\n" for pair in pairs))
        except OSError:
            self._kept = False
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


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


