"""Reads run folders for the page: the list of runs, one run's points and samples, one sample's file."""
from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from ...rewards.base.files import read_bytes
from ...rewards.base.words import shown, unwritable
from ...trainers.run.samples import HELD_OUT, TRAINED

MOST_POINTS = 2000
TAIL_BYTES = 8192
LONGEST = 255  # characters of a folder's name
SAMPLE = re.compile(r"(iteration|held_out)_([0-9]{1,9})\.(?:webp|jpg|png)")
LiveState = Callable[[str], dict]


def runs_root() -> Path:
    import folder_paths
    return Path(folder_paths.get_output_directory()) / "posttrain"


def run_folder(run: str, root: Path | None = None) -> Path:
    """The folder of a run. ValueError where the name is none, LookupError where there is no such run."""
    root = runs_root() if root is None else root
    if not run or run in (".", "..") or len(run) > LONGEST or unwritable(run) or re.search(r"[/\\:]", run):
        raise ValueError(f"run: {shown(run)} is not the name of a run")
    folder = root / run
    if not folder.is_dir() or folder.resolve().parent != root.resolve():
        raise LookupError(f"there is no run '{run}'")
    return folder


def _is_own(folder: Path, root: Path) -> bool:
    """Whether it lies in the folder of runs, and has a name that can be written."""
    return folder.resolve().parent == root.resolve() and not unwritable(folder.name)


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
    """Newest first: run, id, status, iteration, iterations, node, modified, created, reward (mean of the last few)."""
    root = runs_root() if root is None else root
    if not root.is_dir():
        return []
    found = [_summary(folder, live) for folder in root.iterdir() if (folder / "config.json").is_file() and _is_own(folder, root)]
    return sorted(found, key=lambda run: run["modified"], reverse=True)


def read_run(run: str, since: str | int, live: LiveState, root: Path | None = None) -> dict:
    """The summary, points of iterations after ``since`` (at most MOST_POINTS), messages, samples [{iteration, file}] and
    held_out, alike: pictures of held-out prompts, those of iteration 0 made before training.

    thinned: how many iterations one shown pair of points stands for; 1 where every point is there.
    """
    from ...trainers.run.metrics import read_metrics
    if not re.fullmatch(r"\d{1,9}", str(since), re.ASCII):
        raise ValueError(f"since: {shown(str(since))} is not a number of iterations")
    after = int(since)
    folder = run_folder(run, root)
    points = read_metrics(folder / "metrics.jsonl", after)
    drawn, factor = thin(points, MOST_POINTS)
    summary = _summary(folder, live)
    if points:
        summary["iteration"] = max(summary["iteration"], points[-1]["iteration"])
    return {**summary, "points": drawn, "thinned": factor, **_samples(folder),
            "messages": live(run).get("messages", [])}


def thin(points: list[dict], most: int) -> tuple[list[dict], int]:
    """At most ``most`` points that still show every spike, and how many iterations a pair stands for.

    Each stretch of the run becomes two points that carry, for every number by itself, its least and its greatest value
    there, in the order in which they came. The first and the last point stay as they are.
    """
    if len(points) <= most:
        return points, 1
    inner = points[1:-1]
    size = -(-len(inner) // ((most - 2) // 2))
    shown = [points[0]]
    for start in range(0, len(inner), size):
        shown += _extremes(inner[start:start + size])
    return [*shown, points[-1]], size


def _extremes(stretch: list[dict]) -> list[dict]:
    if len(stretch) == 1:
        return stretch
    first, last = dict(stretch[0]), dict(stretch[-1])
    for key in {key: None for point in stretch for key in point if key != "iteration"}:
        values = [point[key] for point in stretch if isinstance(point.get(key), (int, float))]
        if not values:
            continue
        low, high = min(values), max(values)
        first[key], last[key] = (low, high) if values.index(low) <= values.index(high) else (high, low)
    return [first, last]


def _samples(folder: Path) -> dict[str, list[dict]]:
    names = [path.name for path in (folder / "samples").iterdir()] if (folder / "samples").is_dir() else []
    found = sorted((m.group(1), int(m.group(2)), m.group(0)) for m in map(SAMPLE.fullmatch, names) if m)
    return {key: [{"iteration": iteration, "file": file} for each, iteration, file in found if each == kind]
            for key, kind in (("samples", TRAINED), ("held_out", HELD_OUT))}


def _summary(folder: Path, live: LiveState) -> dict:
    config, state, ending = _config(folder), live(folder.name), _last_points(folder / "metrics.jsonl")
    last = ending[-1] if ending else {}
    rewards = [point["reward_mean"] for point in ending if point.get("reward_mean") is not None]
    files = [path for path in (folder / "metrics.jsonl", folder / "config.json") if path.is_file()]
    modified = max((path.stat().st_mtime for path in files), default=0.0)
    return {"run": folder.name, "id": config.get("id"), "created": config.get("created"), "modified": modified,
            "status": _status(folder, config.get("status"), state), "node": state.get("node"),
            "iteration": state.get("iteration") or last.get("iteration") or config.get("iteration") or 0,
            "iterations": state.get("iterations") or config.get("iterations") or 0,
            "seconds_left": state.get("seconds_left"), "reward": sum(rewards) / len(rewards) if rewards else None}


def _status(folder: Path, saved: str | None, state: dict) -> str:
    """The file says "running" for ever where its process was killed."""
    if state.get("status"):
        return state["status"]
    if saved == "running":
        return "elsewhere" if _held_elsewhere(folder / "lock") else "stopped"
    return saved or "unknown"


def _held_elsewhere(lock: Path) -> bool:
    """Whether a process that is not this one says in the lock file that it trains, and is alive."""
    import psutil
    try:
        process = int(json.loads(read_bytes(lock))["process"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return process != os.getpid() and psutil.pid_exists(process)


def _config(folder: Path) -> dict:
    try:
        config = json.loads(read_bytes(folder / "config.json"))
        return config if isinstance(config, dict) else {}
    except (OSError, ValueError):
        return {}


def _last_points(path: Path, count: int = 5) -> list[dict]:
    """The last whole lines, the newest last, without reading the rest; as many as the page's own mean is over."""
    if not path.is_file():  # a pipe would be waited for
        return []
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL_BYTES))
            lines = file.read().split(b"\n")
    except OSError:
        return []
    points = []
    for line in reversed(lines):
        try:
            point = json.loads(line)
        except ValueError:
            continue
        if isinstance(point, dict) and len(points) < count:
            points.append(point)
    return points[::-1]
