"""The oldest ComfyUI is the same everywhere it is named, and on an older one the pack says so in words."""
from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from posttrain.nodes.host_version import OLDEST, too_old
from posttrain.tools.hosts import OLDER

ROOT = Path(__file__).resolve().parents[3]


def test_every_place_names_the_same_release():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["comfy"]["requires-comfyui"] == f">={OLDEST}"
    assert min(OLDER, key=lambda release: tuple(map(int, release.split(".")))) == OLDEST, "what is promised is tested"
    assert f"ComfyUI {OLDEST}" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("version, old", [
    ("0.3.51", True), ("0.3.9", True), ("0.2.99", True), ("", True), ("v0.3.51-4-gabc", True), ("0.3.52", False),
    ("0.3.60", False), ("0.4.0", False), ("0.33.0", False), ("1.0", False), ("nightly", False)])
def test_which_are_too_old(version, old):
    assert too_old(version) is old


@pytest.mark.parametrize("version, words", [("0.3.40", "this one is 0.3.40"), (None, "does not say its version")])
def test_an_older_host_says_so_when_it_loads_the_pack(tmp_path, version, words):
    """ComfyUI's own loading of custom nodes, in the real host with an older number before its own on the import path."""
    (tmp_path / "comfyui_version.py").write_text(f'__version__ = "{version}"\n' if version else "raise ImportError\n")
    load = ("import asyncio, sys; sys.argv[1:] = ['--cpu']; import comfy.options; comfy.options.enable_args_parsing(); "
            "import utils.extra_config, nodes; "
            f"sys.path.insert(0, {str(tmp_path)!r}); sys.modules.pop('comfyui_version', None); "
            f"print(asyncio.run(nodes.load_custom_node({str(ROOT)!r})))")
    run = subprocess.run([sys.executable, "-c", load], cwd=os.environ["COMFYUI_DIR"], capture_output=True, text=True)
    assert run.stdout.endswith("False\n"), run.stderr[-2000:]
    said = run.stderr.strip().splitlines()[-1]
    assert "Cannot import" in said and f"needs ComfyUI {OLDEST} or newer" in said and words in said
    assert "AttributeError" not in run.stderr
