"""history.jsonl: what was said and done in a run beside its numbers, kept where a restart cannot lose it."""

from __future__ import annotations

import json
import time
from pathlib import Path

from ...rewards.base.files import read_bytes, written_whole

FILE = "history.jsonl"
MOST = 200  # entries that are read back, the newest
LONGEST = 4000  # characters of a sentence


def write_entry(folder: Path, iteration: int, text: str, level: str = "info", **more) -> None:
    """One more line. level: "info", "warning", "error" or "steer"; more: what a page needs to say it in another language.
    Raises OSError."""
    entry = {"iteration": iteration, "time": round(time.time(), 3), "level": level, "text": text[:LONGEST], **more}
    # a killed process may have left half a line: it ends here, at the latest
    with open(folder / FILE, "ab", buffering=0) as file:
        file.write(b"\n" + json.dumps(entry).encode() + b"\n")


def read_entries(folder: Path, most: int = MOST) -> list[dict]:
    """The newest entries, the oldest of them first; a line that was cut short is left out."""
    try:
        lines = read_bytes(folder / FILE).split(b"\n")
    except OSError:
        return []
    found = (_parsed(line) for line in lines if line)
    return [entry for entry in found if entry is not None][-most:]


def cut_entries(folder: Path, iteration: int) -> None:
    """Takes out what was said after ``iteration``. Raises OSError, with the file as it was."""
    path = folder / FILE
    if not path.is_file():
        return
    kept = [line for line in read_bytes(path).split(b"\n") if (entry := _parsed(line)) and entry["iteration"] <= iteration]
    with written_whole(path, own_folder=True) as beside:
        beside.write_bytes(b"".join(b"\n" + line + b"\n" for line in kept))


def _parsed(line: bytes) -> dict | None:
    try:
        entry = json.loads(line)
        return entry if isinstance(entry["text"], str) and isinstance(entry["iteration"], int) else None
    except (ValueError, KeyError, TypeError):
        return None
