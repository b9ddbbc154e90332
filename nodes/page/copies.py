"""The copy of a run that is trained elsewhere: the part of its folder that a page shows, and no checkpoint.

It lies among the other runs as '<run> @ <host>', so that whatever reads a run's folder reads this one, too, also when the
training has ended. copy.json in it says whose copy it is.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from ...rewards.base.files import read_bytes, written_whole
from ...rewards.base.words import shown
from ...trainers.run import check_name
from ...trainers.run.aside import CONFIG, LOCK, read_config
from ...trainers.run.compared import NAME as COMPARED
from ...trainers.run.folder import LONGEST_NAME, METRICS
from ...trainers.run.held_out import FILE as HELD_OUT
from ...trainers.run.journal import FILE as HISTORY
from ...trainers.run.steered import WORKFLOW
from .report import REPORT
from .run_reader import SAMPLE, held_elsewhere

MARK = "copy.json"
FILES = (CONFIG, METRICS, HISTORY, WORKFLOW, HELD_OUT, REPORT)
GROWING = (METRICS, HISTORY)  # of these what is new is sent alone
SAMPLES = "samples"
ID = re.compile(r"[0-9a-f]{8,64}")
LONGEST_HOST = 40


def is_copied(place: str) -> bool:
    """Whether a file of a run's folder, named from there, belongs to a copy."""
    folder, _, name = place.rpartition("/")
    return place in FILES or (folder == SAMPLES and bool(SAMPLE.fullmatch(name) or COMPARED.fullmatch(name)))


def copied_files(folder: Path) -> list[str]:
    """The files of a run's folder that belong to a copy; its settings come first."""
    samples = folder / SAMPLES
    found = [name for name in FILES if (folder / name).is_file()]
    there = sorted(f"{SAMPLES}/{path.name}" for path in samples.iterdir()) if samples.is_dir() else []
    return found + [place for place in there if is_copied(place)]


def copy_folder(root: Path, run: str, id: str, host: str) -> Path:
    """The folder of the copy of this run, which is made where there is none; the run's own where a process of this machine trains
    it in this ComfyUI's output folder. ValueError where one of the names is none."""
    if not ID.fullmatch(id):
        raise ValueError(f"id: {shown(id)} is no run's")
    own = root / check_name(run)
    if (read_config(own) or {}).get("id") == id and held_elsewhere(own / LOCK):
        return own
    for mark in root.glob(f"*/{MARK}"):
        if mark_of(mark.parent).get("id") == id:
            return mark.parent
    after = f" @ {host_name(host)}"
    name = own.name[: LONGEST_NAME - len(after) - 4].rstrip() + after
    folder, number = root / check_name(name), 1
    while folder.exists():
        number += 1
        folder = root / f"{name} {number}"
    folder.mkdir(parents=True)
    with written_whole(folder / MARK) as beside:
        beside.write_text(json.dumps({"id": id, "of": run, "from": host}), encoding="utf-8")
    return folder


def host_name(host: str) -> str:
    """The part of a machine's name that may stand in a folder's."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", host.partition(".")[0])[:LONGEST_HOST].strip("-") or "elsewhere"


def mark_of(folder: Path) -> dict:
    """What a copy says of itself; nothing where it is none."""
    try:
        found = json.loads(read_bytes(folder / MARK))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def write_part(folder: Path, place: str, content: bytes, start: int = 0) -> None:
    """A file of a copy, whole, or what it holds from ``start`` on. ValueError where it does not belong to a copy, LookupError
    where what comes before is not there, OSError."""
    if not is_copied(place):
        raise ValueError(f"file: {shown(place)} is none that is copied")
    path = folder / place
    if not start:
        with written_whole(path) as beside:
            beside.write_bytes(content)
        return
    if not path.is_file() or path.stat().st_size < start:
        raise LookupError(f"file: what comes before in {shown(place)} is not there")
    with open(path, "r+b") as file:
        file.seek(start)
        file.write(content)
        file.truncate()


def take_away(folder: Path, place: str) -> None:
    """A file of a copy that the run does not have any more."""
    if is_copied(place):
        (folder / place).unlink(missing_ok=True)
