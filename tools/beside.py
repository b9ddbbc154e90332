"""Other packs beside this one: python develop.py test --beside FOLDER [pytest's arguments] (standard library only).

Every pack in the folder is linked into the servers of tests/host. Without a path in the arguments, tests/host/test_beside.py
runs: the demo's templates, with these packs and without them, give the same numbers.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from .environment import SetupError

OURS = "ComfyUI-PostTrain"  # the name of this pack's own link, as tools/host.py gives it
VARIABLE = "POSTTRAIN_BESIDE"
TESTS = "tests/host/test_beside.py"
NOT_LOADED = re.compile(r"\(IMPORT FAILED\): (.*)")


def variables(folder: str) -> dict[str, str]:
    """For the tests' process; says which packs are meant. SetupError where they cannot be linked."""
    found = packs(Path(folder).expanduser().resolve())
    print(f"Beside {len(found)} packs: {', '.join(pack.name for pack in found)}", flush=True)
    return {VARIABLE: str(found[0].parent)}


def packs(folder: Path) -> list[Path]:
    """The packs in a folder, as ComfyUI tells them: folders with an __init__.py that are not switched off by their name."""
    if not folder.is_dir():
        raise SetupError(f"--beside: {folder} is no folder. Name one that holds packs, such as a ComfyUI's custom_nodes.")
    found = sorted(
        place for place in folder.iterdir() if (place / "__init__.py").is_file() and not place.name.endswith(".disabled")
    )
    if clash := [pack.name for pack in found if pack.name == OURS]:
        raise SetupError(f"--beside: {folder} holds {clash[0]}, whose place this pack takes. Name a folder without it.")
    if not found:
        raise SetupError(f"--beside: {folder} holds no pack: none of its folders has an __init__.py.")
    return found


def asked() -> list[Path]:
    """The packs that this run of the tests links in; none without --beside."""
    folder = os.environ.get(VARIABLE)
    return packs(Path(folder)) if folder else []


def not_loaded(log: str) -> list[str]:
    """Packs that the server could not import, out of its log."""
    return [Path(line.strip()).name for line in NOT_LOADED.findall(log)]
