"""An old run is kept: moved aside as a whole, or left behind where its training goes back to an earlier checkpoint.

Both are done in steps, and a process may be killed between two of them. A mark says what is being done, and the next process
ends it; until then no step takes anything away that is not where it is to be.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import uuid
from pathlib import Path

from ...rewards.base.files import PART, read_bytes, written_whole
from .checkpoints import BrokenCheckpoint, list_checkpoints, load_checkpoint
from .journal import cut_entries

CONFIG, LOCK, CHECKPOINTS, BEST = "config.json", "lock", "checkpoints", "best"
CALIBRATION = "calibration.json"  # measured on the base model: it holds for a run that starts over, too
MOVING = "moving.json"  # there while an old run is moved aside: where to
GOING_BACK = "going_back.json"  # there while a run goes back: to which iteration, and what the old one is called
WENT_BACK = "went_back"  # in config.json: the iteration that the run has gone back to, with the settings that it has
SAMPLE = re.compile(r"[a-z_]+_(\d+)\.\w+")
MISSING = "(not there)"  # a setting that a run does not have


def move_aside(folder: Path) -> str:
    """All of a run into a folder of its own. -> its name."""
    return _marked(folder, MOVING, {"to": _free(folder)})


def go_back(folder: Path, iteration: int) -> str:
    """Makes the checkpoint of ``iteration`` the newest of a run; the run as it was is kept under a name of its own, and can
    be gone on with, too. -> that name. The caller holds the run's lock. Raises OSError where the disk does not take it: the
    next ``finish`` ends it."""
    return _marked(folder, GOING_BACK, {"to": _free(folder), "iteration": iteration})


def finish(folder: Path) -> str:
    """Ends what a process that was killed has begun. -> a sentence for the user, "" where there was nothing."""
    for mark, words in ((MOVING, "moving it"), (GOING_BACK, "going back")):
        task = _task(folder, mark)
        if task is not None:
            TASKS[mark](folder, task)
            return f"The old run was kept as '{task['to']}'; {words} had been cut short."
    return ""


def read_config(folder: Path) -> dict | None:
    try:
        config = json.loads(read_bytes(folder / CONFIG))
        return config if isinstance(config, dict) else None
    except (OSError, ValueError):
        return None


def kept_iterations(folder: Path) -> list[int]:
    """The iterations of a run that it can be gone on from, the earliest first."""
    return sorted({iteration for part in (CHECKPOINTS, BEST) for iteration, _ in list_checkpoints(folder / part)})


def check_kept(folder: Path, iteration: int) -> None:
    """ValueError where a run has no whole checkpoint of ``iteration``; it lists those that there are."""
    known = kept_iterations(folder)
    what = f"the run '{folder.name}' has no checkpoint of iteration {iteration}"
    if iteration in known:
        try:
            load_checkpoint(_checkpoint(folder, iteration))
            return
        except BrokenCheckpoint as error:
            what, known = f"the checkpoint of iteration {iteration} is damaged ({error})", [i for i in known if i != iteration]
    there = (
        f"there are those of {', '.join(map(str, known))}; give one of these, or 0" if known else "there is none yet; give 0"
    )
    raise ValueError(f"continue_from: {what}. In this run {there} to go on from the newest one.")


def as_it_was(config: dict, iteration: int) -> dict:
    """What config.json said when the checkpoint of ``iteration`` was made: changes of settings after it are taken back."""
    changes, settings = config.get("changes") or [], config.get("settings")
    if not isinstance(settings, dict):
        return config
    settings = dict(settings)
    for change in reversed([change for change in changes if change["iteration"] >= iteration]):
        for key, (old, _) in change["changed"].items():
            settings[key] = old
    settings = {key: value for key, value in settings.items() if value != MISSING}
    left = {key: value for key, value in config.items() if key not in ("stopped", WENT_BACK)}
    return left | {
        "settings": settings,
        "fingerprint": fingerprint(settings),
        "changes": [change for change in changes if change["iteration"] < iteration],
        "kept": [each for each in config.get("kept", ()) if each <= iteration],
    }


def fingerprint(settings: dict) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def _marked(folder: Path, mark: str, task: dict) -> str:
    with written_whole(folder / mark, own_folder=True) as beside:
        beside.write_text(json.dumps(task), encoding="utf-8")
    TASKS[mark](folder, task)
    return task["to"]


def _task(folder: Path, mark: str) -> dict | None:
    try:
        task = json.loads(read_bytes(folder / mark))
        known = re.fullmatch(re.escape(folder.name) + r"_backup_[1-9][0-9]{0,5}", task["to"])
        possible = mark == MOVING or task["iteration"] in kept_iterations(folder)
        return task if known and possible else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _free(folder: Path) -> str:
    number = 1
    while folder.with_name(f"{folder.name}_backup_{number}").exists():
        number += 1
    return f"{folder.name}_backup_{number}"


def _move(folder: Path, task: dict) -> None:
    backup = folder.with_name(task["to"])
    backup.mkdir(exist_ok=True)
    # the lock stays: it is held, and Windows renames no open file
    for part in folder.iterdir():
        if part.name not in (LOCK, MOVING):
            part.rename(backup / part.name)
    if (backup / CALIBRATION).is_file():
        shutil.copy(backup / CALIBRATION, folder / CALIBRATION)
    (folder / MOVING).unlink()


def _divide(folder: Path, task: dict) -> None:
    backup, iteration = folder.with_name(task["to"]), task["iteration"]
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and inside.parts[0] not in (LOCK, GOING_BACK) and PART not in str(inside):
            _keep(path, backup / inside, own=len(inside.parts) == 1)
    # from here on everything lies in the backup, too
    _keep(_checkpoint(folder, iteration), folder / CHECKPOINTS / _checkpoint(folder, iteration).name, own=False)
    cut_entries(folder, iteration)
    _write_down(folder, backup, iteration)
    for path in _after(folder, iteration):
        path.unlink(missing_ok=True)
    (folder / GOING_BACK).unlink()


TASKS = {MOVING: _move, GOING_BACK: _divide}


def _keep(path: Path, copy: Path, own: bool) -> None:
    """own: the file is written to as the run goes on; all others are written once, and a second name is copy enough."""
    if copy.exists():
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    if not own:
        try:
            os.link(path, copy)
            return
        except OSError:  # a disk without links
            pass
    with written_whole(copy, own_folder=True) as beside:
        shutil.copy2(path, beside)


def _write_down(folder: Path, backup: Path, iteration: int) -> None:
    """It is another run from here on: a cache that knows the old one must not answer for it."""
    config = read_config(backup)
    if config is None:
        return
    branch = {"iteration": iteration, "kept_as": backup.name, "time": time.strftime("%Y-%m-%d %H:%M:%S")}
    new = {**as_it_was(config, iteration), "id": uuid.uuid4().hex, "branches": [*config.get("branches", []), branch]}
    with written_whole(folder / CONFIG, own_folder=True) as beside:
        beside.write_text(json.dumps(new, indent=1), encoding="utf-8")


def _checkpoint(folder: Path, iteration: int) -> Path:
    found = dict(list_checkpoints(folder / BEST)) | dict(list_checkpoints(folder / CHECKPOINTS))
    return found[iteration]


def _after(folder: Path, iteration: int) -> list[Path]:
    """What a run has kept of later iterations; the lines of its metrics are cut off when it is gone on with."""
    later = [path for part in (CHECKPOINTS, BEST) for number, path in list_checkpoints(folder / part) if number > iteration]
    samples = sorted((folder / "samples").glob("*")) if (folder / "samples").is_dir() else []
    return later + [path for path in samples if (found := SAMPLE.fullmatch(path.name)) and int(found.group(1)) > iteration]
