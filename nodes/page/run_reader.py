"""Reads run folders for the page: the list of runs, one run's points and samples, one sample's file."""
from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from ...rewards.base.files import read_bytes
from ...rewards.base.words import shown, unwritable
from ...trainers.run.aside import kept_iterations, read_config
from ...trainers.run.journal import read_entries
from ...trainers.run.metrics import curve, last_points
from ...trainers.run.samples import HELD_OUT, TRAINED
from ...trainers.run.steering import state_of
from ..privacy import without_places

MOST_POINTS = 2000
MARKS = "page.json"
LONGEST = 255  # characters of a folder's name
SAMPLE = re.compile(r"(iteration|held_out)_([0-9]{1,9})\.(?:webp|jpg|png)")
LiveState = Callable[[str], dict]
_known: dict[Path, tuple[tuple, dict]] = {}  # what run folders say, by the stamps of their files


def runs_root() -> Path:
    import folder_paths
    return Path(folder_paths.get_output_directory()) / "posttrain"


def run_folder(run: str, root: Path | None = None) -> Path:
    """The folder of a run. ValueError where the name is none, LookupError where there is no such run."""
    root = runs_root() if root is None else root
    if not run or run.startswith(".") or len(run) > LONGEST or unwritable(run) or re.search(r"[/\\:]", run):
        raise ValueError(f"run: {shown(run)} is not the name of a run")
    folder = root / run
    if not folder.is_dir() or folder.resolve().parent != root.resolve():
        raise LookupError(f"there is no run '{run}'")
    return folder


def _is_own(folder: Path, root: Path) -> bool:
    """Whether it lies in the folder of runs, which is resolved, and has a name that can be written."""
    return not unwritable(folder.name) and not ((folder.is_symlink() or os.name == "nt") and folder.resolve().parent != root)


def sample_path(run: str, file: str, root: Path | None = None) -> Path:
    """The picture of that name. ValueError where no sample is called so, LookupError where it is missing."""
    if not SAMPLE.fullmatch(file):
        raise ValueError(f"file: {shown(file)} is not the name of a sample")
    folder = run_folder(run, root)
    path = folder / "samples" / file
    if not path.is_file() or path.resolve() != folder.resolve() / "samples" / file:  # a link could lead anywhere
        raise LookupError(f"the run '{run}' has no sample '{file}'")
    return path


def list_runs(live: LiveState, root: Path | None = None) -> list[dict]:
    """Newest first: run, id, status, iteration, iterations, node, modified, created, reward (mean of the last few), pinned and
    note."""
    root = runs_root() if root is None else root
    if not root.is_dir():
        return []
    whole = root.resolve()
    found = [_summary(folder, live) for folder in root.iterdir() if (folder / "config.json").is_file() and _is_own(folder, whole)]
    return sorted(found, key=lambda run: run["modified"], reverse=True)


def read_run(run: str, since: str | int, live: LiveState, root: Path | None = None) -> dict:
    """The summary, points of iterations after ``since`` (at most MOST_POINTS), messages, samples [{iteration, file}] and
    held_out, alike: pictures of held-out prompts, those of iteration 0 made before training; the folder; steering, None where
    this process does not train it; kept: the iterations that it can go back to.

    thinned: how many iterations one shown pair of points stands for; 1 where every point is there.
    """
    if not re.fullmatch(r"\d{1,9}", str(since), re.ASCII):
        raise ValueError(f"since: {shown(str(since))} is not a number of iterations")
    after = int(since)
    folder = run_folder(run, root)
    points, factor = curve(folder / "metrics.jsonl", after, MOST_POINTS)
    summary = _summary(folder, live)
    if points:
        summary["iteration"] = max(summary["iteration"], points[-1]["iteration"])
    return {**summary, "points": points, "thinned": factor, **_samples(folder),
            "messages": _messages(folder, live(run).get("messages", [])), "folder": f"output/posttrain/{run}",
            "steering": state_of(folder), "kept": kept_iterations(folder)}


def _messages(folder: Path, live: list[dict]) -> list[dict]:
    """What is in the run's history, and what only this process has heard."""
    kept = [entry | {"text": without_places(entry["text"])} for entry in read_entries(folder)]
    known = {entry["text"] for entry in kept}
    return kept + [message for message in live if message["text"] not in known]


def _samples(folder: Path) -> dict[str, list[dict]]:
    names = [path.name for path in (folder / "samples").iterdir()] if (folder / "samples").is_dir() else []
    found = sorted((m.group(1), int(m.group(2)), m.group(0)) for m in map(SAMPLE.fullmatch, names) if m)
    return {key: [{"iteration": iteration, "file": file} for each, iteration, file in found if each == kind]
            for key, kind in (("samples", TRAINED), ("held_out", HELD_OUT))}


def _summary(folder: Path, live: LiveState) -> dict:
    facts, state = _facts(folder), live(folder.name)
    return {"run": folder.name, **facts, "status": _status(folder, facts["status"], state), "node": state.get("node"),
            "iteration": state.get("iteration") or facts["iteration"],
            "iterations": state.get("iterations") or facts["iterations"],
            "seconds_left": state.get("seconds_left")}


def _facts(folder: Path) -> dict:
    """What the run's files say. They are read again only where they have changed: a page asks for every run there is."""
    files = [folder / name for name in ("metrics.jsonl", "config.json", MARKS)]
    stamps = tuple(_stamp(path) for path in files)
    known = _known.get(folder)
    if known is None or known[0] != stamps:
        known = _known[folder] = (stamps, _facts_of(folder, max(stamp[0] for stamp in stamps[:2]) / 1e9))
    return known[1]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
        return found.st_mtime_ns, found.st_size
    except OSError:
        return 0, 0


def _facts_of(folder: Path, modified: float) -> dict:
    config, ending = read_config(folder) or {}, last_points(folder / "metrics.jsonl")
    last = ending[-1] if ending else {}
    rewards = [point["reward_mean"] for point in ending if point.get("reward_mean") is not None]
    return {"id": config.get("id"), "created": config.get("created"), "modified": modified, "status": config.get("status"),
            "iteration": last.get("iteration") or config.get("iteration") or 0, "iterations": config.get("iterations") or 0,
            "reward": sum(rewards) / len(rewards) if rewards else None, **marks_of(folder)}


def _status(folder: Path, saved: str | None, state: dict) -> str:
    """The file says "running" for ever where its process was killed."""
    if state.get("status"):
        return state["status"]
    if saved == "running":
        return "elsewhere" if held_elsewhere(folder / "lock") else "stopped"
    return saved or "unknown"


def held_elsewhere(lock: Path) -> bool:
    """Whether a process that is not this one says in the lock file that it trains, and is alive."""
    import psutil
    try:
        process = int(json.loads(read_bytes(lock))["process"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return process != os.getpid() and psutil.pid_exists(process)


def marks_of(folder: Path) -> dict:
    """{"pinned": bool, "note": str}; what cannot be read counts as not said."""
    try:
        found = json.loads(read_bytes(folder / MARKS))
        return {"pinned": bool(found.get("pinned")), "note": str(found.get("note", ""))}
    except (OSError, ValueError, AttributeError):
        return {"pinned": False, "note": ""}
