"""Other ComfyUIs than the pinned one: which is meant, what lies in the cache, and whose packages come first."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from posttrain.tools import hosts
from posttrain.tools.environment import Environment, SetupError

ROOT = Path(__file__).resolve().parents[3]


def checkout(folder: Path, version: str | None = "0.9.1") -> Path:
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    if version:
        (folder / "comfyui_version.py").write_text(f'# made\n__version__ = "{version}"\n')
    return folder


def test_the_host_of_this_run_says_its_version():
    import comfyui_version

    assert hosts.version(Path(os.environ["COMFYUI_DIR"])) == comfyui_version.__version__


def test_a_checkout_is_what_has_comfyuis_files(tmp_path):
    env = Environment(tmp_path / "env")
    assert hosts.folder(env, str(checkout(tmp_path / "a"))) == tmp_path / "a"
    assert hosts.version(checkout(tmp_path / "b", None)) == "of unknown version"
    with pytest.raises(SetupError, match="--comfyui: .*nowhere is no ComfyUI.*0.3.52"):
        hosts.folder(env, str(tmp_path / "nowhere"))
    with pytest.raises(SetupError, match="--python: it goes with --comfyui PATH"):
        hosts.other(env, None, sys.executable)


@pytest.mark.skipif(sys.platform != "linux", reason="the cache folder is named by another variable there")
def test_the_checkouts_beside_the_pinned_one_are_found_and_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    hosts.say_beside()
    assert hosts.beside() == [] and capsys.readouterr().out == ""
    place = tmp_path / "comfyui-posttrain" / "hosts"
    (place / "no-checkout").mkdir(parents=True)
    made = [checkout(place / "b"), checkout(place / "c")]
    assert hosts.beside() == made
    hosts.say_beside()
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == [f"Also on ComfyUI 0.9.1, {each}" for each in made]


def test_a_hosts_own_packages_come_before_those_of_the_tests(tmp_path):
    """Its Python has a package that the tests' has too: its own is imported, and pytest is there behind it."""
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "venv").symlink_to(sys.prefix, target_is_directory=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "its"], check=True)
    python = Environment(tmp_path / "made").python.relative_to(tmp_path / "made" / "venv")
    (place,) = (tmp_path / "its").glob("**/site-packages")
    (place / "requests.py").write_text("its_own = True\n")
    made = Environment(hosts.behind(Environment(tmp_path / "env"), tmp_path / "its" / python)).python
    said = hosts.answer(made, "-P", "-c", "import requests, pytest, torch; print(requests.its_own, pytest.__name__, torch.__name__)")
    assert said == "True pytest torch\n"
    with pytest.raises(SetupError, match="--python: .*nothing cannot be run"):
        hosts.behind(Environment(tmp_path / "env"), tmp_path / "nothing")
