"""How much memory each process asks Ray for: that of the model files that its workflow names, and some for itself."""

from __future__ import annotations

import runpy
import sys
import tempfile
from pathlib import Path
from typing import Any

GB, ITSELF = 1e9, 1e9  # bytes; for what is no model


def of_models(ray, arguments: list[str], pack: Path) -> list[int]:
    """Bytes of each model file that the workflow names, as a ComfyUI of the cluster finds them."""
    kind = ray.remote(num_cpus=0, max_calls=1)(_found)  # its process ends with it
    return ray.get(kind.remote(arguments, str(pack)))


def _found(arguments: list[str], pack: str) -> list[int]:
    sys.argv[0] = str(Path(pack) / "headless.py")
    streams = sys.stdout, sys.stderr
    with tempfile.TemporaryDirectory(prefix="posttrain-files-", ignore_cleanup_errors=True) as own:
        try:
            return runpy.run_path(sys.argv[0])["model_sizes"](arguments, Path(own))
        finally:
            sys.stdout, sys.stderr = streams


def words_of(asked: dict[str, float], models: float | None) -> str:
    """What each process asks for, in one line. models: bytes, None where the user has said how much it is."""
    parts = [f"{count:g} {kind}" for kind, count in asked.items() if kind != "memory"]
    why = (
        "as --memory says"
        if models is None
        else f"{gigabytes(models)} are in the model files that the workflow names (--memory)"
    )
    return f"Each process asks Ray for {', '.join(parts)} and {gigabytes(asked['memory'])} of memory; {why}"


def short_of(nodes: list[dict[str, Any]], count: int, each: float, models: float | None) -> str:
    """Why no machine, or not all of them together, have that to give; "" where they have. nodes: as Ray tells of them."""
    there = [node["Resources"].get("memory", 0.0) for node in nodes if node["Alive"]]
    if sum(have // each for have in there) >= count:
        return ""
    why = "" if models is None else f" (the model files that the workflow names have {gigabytes(models)})"
    return (
        f"--memory: {count} processes ask for {gigabytes(each)} each{why}, and Ray's machines have "
        f"{', '.join(map(gigabytes, there))} to give. Take fewer processes or larger machines; or give "
        "--memory, if you know that less will do"
    )


def gigabytes(count: float) -> str:
    return f"{count / GB:.1f} GB"
