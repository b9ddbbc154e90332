"""The folder of a run: who may write there, with which settings, and what is in it."""
from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import torch

from ...rewards.base import ranks
from ...rewards.base.files import sweep
from ...rewards.base.names import RESERVED, check_length, meant, possible, the_folder
from ...rewards.base.words import shown
from .aside import (
    CHECKPOINTS,
    CONFIG,
    LOCK,
    MISSING,
    WENT_BACK,
    as_it_was,
    check_kept,
    fingerprint,
    finish,
    go_back,
    move_aside,
    read_config,
)
from .checkpoints import SaveFailed, list_checkpoints, load_newest, prune, save_checkpoint
from .lock import RunLock
from .metrics import MetricsFile, read_metrics
from .samples import TRAINED, save_samples

CONTINUE, CONTINUE_CHANGED, START_OVER = "continue", "continue with changed settings", "start over"
WHEN_EXISTS = (CONTINUE, CONTINUE_CHANGED, START_OVER)
METRICS = "metrics.jsonl"
MOST_CHANGES = 12
LONGEST_NAME = 80
DEEPEST = f"{CHECKPOINTS}/state_0000000.safetensors.0000000.posttrain-part/whole"  # the longest path in a run's folder

# states that no disk would take, by run folder: a later training in this process goes on from them
_unsaved: dict[Path, tuple[int, dict, dict]] = {}


class FolderLost(RuntimeError):
    """The run's folder is not there any more."""


class SettingsChanged(ValueError):
    """The run was trained with other settings; the user has to say what is meant. changes: name -> (old, new); named: the same
    under the names that the user knows."""

    def __init__(self, run_name: str, iteration: int, changes: dict[str, tuple], plain: Callable[[str], str] = str):
        self.changes, self.named = changes, {plain(key): change for key, change in changes.items()}
        lines = [f"  {plain(key)}: {_short(old)} -> {_short(new)}" for key, (old, new) in changes.items()]
        if len(lines) > MOST_CHANGES:
            lines = [*lines[:MOST_CHANGES], f"  and {len(lines) - MOST_CHANGES} more"]
        super().__init__(
            f"run_name: the run '{run_name}' ({iteration} iterations saved) was trained with other settings:\n"
            + "\n".join(lines) + "\nWhat shall happen? Set when_run_exists to\n"
            f"  '{CONTINUE_CHANGED}': goes on from iteration {iteration} with the new settings;\n"
            f"  '{START_OVER}': trains anew, the old run is kept as a backup;\n"
            "or give another run_name, or set the settings back.")


def check_name(name: str, field: str = "run_name") -> str:
    """The name, where it can be a folder's on every system; else ValueError with what is wrong and what to do.
    field: the input that it was given to."""
    advice = "use letters, digits, spaces, '-' and '_'"
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{field}: it is empty; give the run a name, {advice}")
    if not (possible(name) or RESERVED.fullmatch(name)) or name.strip(". ") != name:
        raise ValueError(f"{field}: '{shown(name)}' cannot be a folder's name (no / \\ : * ? \" < > |, no dot or space "
                         f"at the ends); {advice}")
    if RESERVED.fullmatch(name):
        raise ValueError(f"{field}: Windows keeps the name '{shown(name)}' for itself; choose another")
    if len(name) > LONGEST_NAME or len(name.encode()) > 2 * LONGEST_NAME:
        raise ValueError(f"{field}: {len(name)} characters are too many; use {LONGEST_NAME} at most")
    return name


def run_state(root: Path, name: str) -> str:
    """Changes whenever a training has changed the run: what a cache needs to know."""
    try:
        folder = meant(Path(root) / check_name(name))
    except ValueError:
        return ""
    config, saved = read_config(folder) or {}, list_checkpoints(folder / CHECKPOINTS)
    return f"{config.get('id')} {saved[-1][0] if saved else 0}"


class Run:
    """An open run: ``load`` once, then ``record`` and ``save``, and ``close`` in any case.

    notes: sentences for the user on what opening and loading found. saved: the newest iteration on the disk.
    """

    def __init__(self, folder: Path, lock: RunLock, config: dict, notes: list[str]):
        self.folder, self.name, self.config, self.notes = folder, folder.name, config, notes
        self.saved = 0
        self._lock = lock
        self._metrics: MetricsFile | None = None

    @classmethod
    def open(cls, root: Path, name: str, settings: dict, when_exists: str = CONTINUE,
             plain: Callable[[str], str] = str, defaults: dict | None = None, continue_from: int = 0) -> Run:
        """Locks <root>/<name> and settles what happens if it holds a run already.

        settings: JSON-serialisable values by name; plain: a setting's name as the user knows it. defaults: what a setting
        is where a node has no word of it, as in runs and graphs that are older than the setting. continue_from: the iteration
        to go back to, 0 for none; it is gone back to once with the same settings, so that a run that was cancelled goes on.
        Raises ValueError on the name (also where that of another run differs in case alone) or continue_from, RunInUse,
        SettingsChanged, RuntimeError where the folder cannot be written.
        """
        if when_exists not in WHEN_EXISTS:
            raise ValueError(f"when_run_exists: '{when_exists}' is unknown; choose one of {', '.join(WHEN_EXISTS)}")
        folder = the_folder(Path(root) / check_name(name), "run_name")
        check_length(folder / DEEPEST, "run_name")
        lock = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = RunLock(folder / LOCK, name)
            config, notes = _settle(folder, json.loads(json.dumps(settings)), when_exists, plain, defaults or {}, continue_from)
            run = cls(folder, lock, config, notes)
            run.update()
            return run
        except BaseException as error:
            if lock is not None:
                lock.release()
            if isinstance(error, OSError):
                raise RuntimeError(f"The run's folder {folder} cannot be written ({error}). Make room or change its "
                                   "rights, or start ComfyUI with another output folder.") from error
            raise

    def load(self) -> tuple[int, dict[str, torch.Tensor], dict] | None:
        """iteration, tensors and meta of the newest whole state, or None; metrics of later iterations are cut off."""
        saved, damage = load_newest(self.folder / CHECKPOINTS)
        self.notes += damage
        self.saved = saved[0] if saved else 0
        kept = _unsaved.get(self.folder)
        if kept is not None and (saved is None or kept[0] > saved[0]):
            saved = kept
        self._metrics = MetricsFile(self.folder / METRICS, saved[0] if saved else 0)
        return saved

    def check_there(self) -> None:
        """Raises FolderLost where the folder was deleted, renamed or replaced since it was opened; the run then has one again,
        under its name, with its settings, for the state that is saved next."""
        if not self._lock.lost:
            return
        self._lock.release()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock, self.saved = RunLock(self.folder / LOCK, self.name), 0
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = MetricsFile(self.folder / METRICS, 1 << 60)
        self.update()
        raise FolderLost(f"The folder of the run '{self.name}' was deleted or renamed while it was being trained. The state so "
                         "far is saved under the run's name again; the curve and the checkpoints before it are where the old "
                         "folder is. Queue again to go on.")

    def points(self) -> list[dict]:
        """The recorded iterations since the settings were changed last; a number that JSON does not know is left out."""
        changes = self.config.get("changes") or [{"iteration": 0}]
        points = read_metrics(self.folder / METRICS, changes[-1]["iteration"])
        return [{name: value for name, value in point.items() if value is not None} for point in points]

    def record(self, iteration: int, seconds: float, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl. Raises OSError, with the file as it was."""
        self._metrics.append({"iteration": iteration, "time": round(time.time(), 3), "seconds": round(seconds, 4),
                              **metrics})

    def save(self, iteration: int, tensors: dict[str, torch.Tensor], meta: dict, save_every: int) -> Path:
        """A checkpoint. Where it fails the state is kept in memory, and SaveFailed is raised."""
        folder = self.folder / CHECKPOINTS
        if ranks.helps():  # the first of several processes saves for all
            self.saved = iteration
            return folder
        try:
            path = save_checkpoint(folder, iteration, tensors, meta)
        except SaveFailed:
            _unsaved[self.folder] = (iteration, tensors, meta)
            raise
        _unsaved.pop(self.folder, None)
        self.saved = iteration
        prune(folder, save_every, self.config.get("kept", ()))
        return path

    def save_samples(self, images: torch.Tensor, iteration: int, kind: str = TRAINED) -> Path:
        return save_samples(images, self.folder / "samples", iteration, kind)

    def update(self, **facts) -> None:
        """Notes facts (status, iterations ...) in config.json, for readers."""
        self.config |= facts
        beside = self.folder / f"{CONFIG}.tmp"
        try:
            beside.write_text(json.dumps(self.config, indent=1))
            os.replace(beside, self.folder / CONFIG)
        finally:
            beside.unlink(missing_ok=True)

    def close(self) -> None:
        if self._metrics is not None:
            self._metrics.close()
        self._lock.release()


def _settle(folder: Path, settings: dict, when_exists: str, plain: Callable[[str], str],
            defaults: dict, continue_from: int) -> tuple[dict, list[str]]:
    """-> the config to go on with, and what to tell the user."""
    sweep(folder, 0.0)
    notes = [said for said in [finish(folder)] if said]
    old, newest = read_config(folder), _newest(folder)
    if when_exists == START_OVER and (old is not None or newest):
        notes.append(f"The old run was kept as '{_left_behind(folder, move_aside(folder))}'.")
        old = None
    if old is None:
        _unsaved.pop(folder, None)  # the folder was removed by hand
    fresh = {"id": uuid.uuid4().hex, "name": folder.name, "created": time.strftime("%Y-%m-%d %H:%M:%S"),
             "settings": settings, "fingerprint": fingerprint(settings), "changes": []}
    newest = _newest(folder)
    done = old is not None and old.get(WENT_BACK) == continue_from and not _changed(old, settings, defaults)
    iteration = newest if done or not continue_from else continue_from
    back = iteration != newest
    if back:
        check_kept(folder, iteration)
    if iteration == 0:
        return fresh, notes
    config = as_it_was(old, iteration) if back and old else old
    changes = _changed(config, settings, defaults)
    if changes and when_exists == CONTINUE:
        raise SettingsChanged(folder.name, iteration, changes, plain)
    if back:
        kept = _left_behind(folder, go_back(folder, iteration))
        notes.append(f"Went back to iteration {iteration}. The run as it was, {newest} iterations, is kept as '{kept}'.")
        config = read_config(folder)
    config = {key: value for key, value in (config or fresh).items() if key != WENT_BACK}
    config |= {WENT_BACK: continue_from} if continue_from else {}
    if not changes:
        return config, notes
    notes.append(f"Goes on from iteration {iteration} with {len(changes)} changed settings.")
    history = [*config.get("changes", []), {"iteration": iteration, "changed": changes}]
    return config | {"settings": settings, "fingerprint": fresh["fingerprint"], "changes": history}, notes


def _newest(folder: Path) -> int:
    saved = list_checkpoints(folder / CHECKPOINTS)
    return max(saved[-1][0] if saved else 0, _unsaved[folder][0] if folder in _unsaved else 0)


def _left_behind(folder: Path, backup: str) -> str:
    """What only the memory has of a run goes with the folder that the run has now. -> its name."""
    if folder in _unsaved:
        _unsaved[folder.with_name(backup)] = _unsaved.pop(folder)
    return backup


def _changed(config: dict | None, settings: dict, defaults: dict) -> dict[str, tuple]:
    known = (config or {}).get("settings")
    return _changes(known, settings, defaults) if isinstance(known, dict) else {CONFIG: ("cannot be read", "the graph's")}


def _changes(old: dict, new: dict, defaults: dict) -> dict[str, tuple]:
    old, new = _completed(old, defaults), _completed(new, defaults)
    return {key: (old.get(key, MISSING), new.get(key, MISSING)) for key in sorted(old.keys() | new.keys())
            if old.get(key, MISSING) != new.get(key, MISSING)}


def _completed(settings: dict, defaults: dict) -> dict:
    """With the defaults of the nodes that the settings have a word of: a setting is named "node.input"."""
    nodes = {key.rpartition(".")[0] for key in settings}
    return {key: value for key, value in defaults.items() if key.rpartition(".")[0] in nodes} | settings


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
