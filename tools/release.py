"""The archive for ComfyUI's registry: python develop.py release [folder], build/release where none is named.

comfy-cli's own pack builds it from the files of the repository, its own validate looks at what came out, and so do the
registry's rules (tools/registry_rules.py). Nothing is sent anywhere: comfy-cli's telemetry is switched off, and what it would
send with is not installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

from . import registry_rules, tree
from .environment import ROOT, Environment
from .overlay import laid

PINS = ("comfy-cli==1.23.0", "semver==3.0.4", "tomlkit==0.15.2")
SILENT = {"DO_NOT_TRACK": "1", "COMFY_NO_TELEMETRY": "1", "POSTHOG_API_KEY": "", "RUFF_NO_CACHE": "true"}
WARNED = ("warning", "error")


def packer(env: Environment) -> Path:
    """The folder to put on PYTHONPATH for comfy-cli."""
    return laid(env, "packer", "the registry's packer", PINS, lambda step: PINS)


def version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def comfy(folder: Path, home: Path, *words: str) -> str:
    """What ``comfy node WORDS`` says in a folder; RuntimeError where it ends with an error."""
    done = subprocess.run([sys.executable, "-m", "comfy_cli", "--skip-prompt", "node", *words], cwd=folder,
                          env=os.environ | SILENT | {"HOME": str(home), "USERPROFILE": str(home), "XDG_CONFIG_HOME": str(home)},
                          capture_output=True, text=True)  # fmt: skip
    said = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"comfy node {' '.join(words)} ended with {done.returncode}:\n{said}")
    return said


def build(folder: Path) -> tuple[Path, list[str]]:
    """The archive, and what is wrong with it."""
    with tempfile.TemporaryDirectory() as place:
        copy, unpacked, home = (Path(place, name) for name in ("pack", "unpacked", "home"))
        home.mkdir()
        tree.copy(copy)
        comfy(copy, home, "pack")
        with zipfile.ZipFile(copy / "node.zip") as packed:
            packed.extractall(unpacked)
        said = comfy(unpacked, home, "validate")
        folder.mkdir(parents=True, exist_ok=True)
        archive = folder / f"posttrain-{version()}.zip"
        shutil.move(copy / "node.zip", archive)
    found = registry_rules.faults(archive)
    found += [f"comfy node validate: {said}"] if any(word in said.lower() for word in WARNED) else []
    if f"## [{version()}]" not in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"):
        found.append(f"CHANGELOG.md has no heading [{version()}]")
    return archive, found


def main(folder: Path) -> int:
    archive, found = build(folder)
    print(f"{archive}: {archive.stat().st_size / 1e6:.1f} MB, {len(zipfile.ZipFile(archive).namelist())} files")
    for fault in found:
        print(f"  {fault}")
    print("The registry's rules hold." if not found else f"{len(found)} faults.")
    if left := registry_rules.placeholders():
        print(f"Before it is published, put the owner's name in: {', '.join(left)} (CONTRIBUTING.md)")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "release").absolute()))
