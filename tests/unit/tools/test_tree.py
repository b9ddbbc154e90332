"""The tests run wherever the repository lies and whatever its folder is called, through develop.py and without it.

Each test copies the working tree, with a handful of its tests, and runs those there.
"""
from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from posttrain.tools import tree
from posttrain.tools.environment import ROOT, cache_folder

TESTS, ONE = "tests/unit/trainers/noise/test_paths.py", "test_flow_at_sigma_one_is_pure_noise"
NAMES = ("ComfyUI-PostTrain", "my folder", "后训练 v1.2 [it's old] 100% $HOME")


def copy(place: Path, *kept: str) -> Path:
    """The tree with few tests, so that all of them are run in no time: one file that needs ComfyUI, and those ``kept``."""
    tree.copy(place)
    tests = place / "tests"
    for level in ("simulated", "host", "page"):
        shutil.rmtree(tests / level)
    for found in tests.rglob("*.py"):
        shared = found.name in ("conftest.py", "golden_files.py") and len(found.relative_to(tests).parts) < 3
        if not shared and found.name not in ("test_paths.py", *kept):
            found.unlink()
    return place


def run(*command: object, folder: Path, code: int = 0, **variables: str) -> str:
    """The output of a command in a folder, as from a user's shell; it must end with ``code``."""
    ours = ("PYTEST_", "COMFYUI_DIR", "PLAYWRIGHT_BROWSERS_PATH", "HF_HUB_OFFLINE")  # develop.py's and pytest's own
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    done = subprocess.run([*map(str, command)], cwd=folder, env=kept | variables, capture_output=True, text=True,
                          encoding="utf-8", stdin=subprocess.DEVNULL, timeout=300)
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout if code in (0, 5) else done.stderr


def passed(output: str) -> int:
    return int(re.search(r"(\d+) passed", output)[1])


@pytest.mark.parametrize("name", NAMES)
def test_all_tests_run_in_a_folder_of_that_name(tmp_path, name):
    place = copy(tmp_path / name)
    # the variable: nothing here opens a page, and no browser shall be looked for
    assert passed(run(sys.executable, "develop.py", "test", folder=place, CHROMIUM=sys.executable)) == 12


def test_all_tests_run_in_custom_nodes_of_a_comfyui(tmp_path):
    """Its own settings of pytest, its conftest and its rules for git are not ours."""
    place = copy(tmp_path / "ComfyUI" / "custom_nodes" / "comfyui-posttrain", "test_structure.py")
    (tmp_path / "ComfyUI" / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "ComfyUI" / "conftest.py").write_text("raise RuntimeError('the conftest of ComfyUI')\n")
    (tmp_path / "ComfyUI" / "__init__.py").write_text("raise RuntimeError('ComfyUI is no package')\n")
    (tmp_path / "ComfyUI" / ".gitignore").write_text("/custom_nodes/\n")
    if shutil.which("git"):
        subprocess.run(["git", "init", "-q"], cwd=tmp_path / "ComfyUI", check=True)
    whole = "not a_test_file_has_the_name and not names_a_test_that_is_there"  # what looks at all the tests finds few here
    assert passed(run(sys.executable, "develop.py", "test", "-k", whole, folder=place, CHROMIUM=sys.executable)) >= 24


def test_behind_a_link_and_from_another_directory(tmp_path):
    (tmp_path / "link").symlink_to(copy(tmp_path / "my folder"), target_is_directory=True)
    output = run(sys.executable, "link/develop.py", "test", f"link/{TESTS}::{ONE}", "-v", folder=tmp_path)
    assert passed(output) == 1 and f"{TESTS}::{ONE}" in output, output


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash on this machine")
@pytest.mark.parametrize("chosen, code, ending", [("sigma_one", 0, "1 passed, 11 deselected"), ("nothing", 5, "12 deselected")])
def test_continuous_integration_runs_in_such_a_folder(tmp_path, chosen, code, ending):
    """Its last line and its exit code are pytest's, and it leaves nothing behind."""
    output = run("bash", ROOT / ".ci" / "run", TESTS, "-k", chosen, folder=tmp_path, code=code, TMPDIR=str(tmp_path))
    assert re.search(r"^rootdir: .*/post train\.\w+/ComfyUI-PostTrain$", output, re.MULTILINE)
    assert ending in output.splitlines()[-1]
    assert not [*tmp_path.glob("post train*")]


@pytest.mark.parametrize("folder, argument, seen", [
    (ROOT, TESTS, ROOT / TESTS), ((ROOT / TESTS).parent, f"test_paths.py::{ONE}", ROOT / f"{TESTS}::{ONE}"),
    (ROOT.parent, TESTS, TESTS), (ROOT.parent, f"{ROOT.name}/{TESTS}", ROOT / TESTS), (ROOT / "docs", TESTS, TESTS),
    (ROOT / "tests" / "unit", "rewards", ROOT / "tests" / "unit" / "rewards"), (ROOT.parent, "rewards", "rewards"),
    (ROOT, "-q", "-q"), (ROOT, "-k=" + 300 * "x", "-k=" + 300 * "x"), (ROOT, "no_such_file", "no_such_file")])
def test_paths_are_those_of_the_current_directory_or_of_the_repository(monkeypatch, folder, argument, seen):
    monkeypatch.chdir(folder)
    assert develop().from_repository(argument) == str(seen)


def test_values_of_options_are_no_paths(monkeypatch):
    monkeypatch.chdir(ROOT / "tests" / "unit")
    assert develop().paths_from_repository(["-k", "rewards", "-x", "toy", "--deselect", "toy"]) == [
        "-k", "rewards", "-x", str(ROOT / "tests" / "unit" / "toy"), "--deselect", "toy"]


def develop():
    """develop.py as a module; it puts the repository on the path, which no test may see."""
    spec = importlib.util.spec_from_file_location("develop", ROOT / "develop.py")
    module, path = importlib.util.module_from_spec(spec), list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


@pytest.mark.parametrize("name", [name for name, _, _ in develop().commands()])
def test_the_help_of_a_command_installs_nothing(name, monkeypatch, capsys):
    """It is the command's own, in the environment that is there, or develop.py's."""
    module, called = develop(), []
    monkeypatch.setattr(module, "environment", lambda: None)
    monkeypatch.setattr(module, "call", lambda env, *command, **_: called.append(command) or 0)
    monkeypatch.setattr(module.overlay, "laid", lambda *_: pytest.fail("installs something"))
    try:
        assert module.main([name, "--help"]) == 0
    except SystemExit as end:
        assert end.code == 0 and f"develop.py {name}" in capsys.readouterr().out and not called
    else:
        assert [command[-1] for command in called] == ["--help"]


def test_the_other_commands_start_too_and_write_where_the_user_stands(tmp_path):
    tree.copy(tmp_path / NAMES[-1])
    program = Path(NAMES[-1], "develop.py")
    for name in ("demo", "serve", "bench", "prove"):
        assert run(sys.executable, program, name, "--help", folder=tmp_path).startswith(f"usage: develop.py {name}")
    run(sys.executable, program, "pretrain", "text", "--out", "my models", folder=tmp_path)
    assert [file.name for file in (tmp_path / "my models").iterdir()] == ["text_encoder.safetensors"]


def test_a_read_only_checkout_and_a_home_with_a_space(tmp_path, monkeypatch):
    place = copy(tmp_path / "read only")
    environment = cache_folder()
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "a home"))
    cache_folder().parent.mkdir(parents=True)
    cache_folder().symlink_to(environment, target_is_directory=True)
    for folder, _, _ in os.walk(place):
        os.chmod(folder, 0o555)
    try:
        command = [*as_a_user(), sys.executable, "develop.py", "test", TESTS]
        output = run(*command, folder=place)
        refused = run(*command[:-2], "prove", "--seeds", "1", folder=place, code=2)
    finally:
        for folder, _, _ in os.walk(place):
            os.chmod(folder, 0o755)
    assert passed(output) == 12 and "warning" not in output, output
    assert "cannot be written to" in refused and "Traceback" not in refused
    assert not [*place.rglob("__pycache__"), *place.rglob(".pytest_cache")]


def as_a_user() -> list[str]:
    """Root writes everywhere: this gives that right up for the command behind it."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return []
    if not shutil.which("setpriv"):
        pytest.skip("root without setpriv: no folder is read-only to it")
    return ["setpriv", "--bounding-set=-dac_override"]


def test_pytest_alone_as_editors_call_it(tmp_path):
    script = Path(sysconfig.get_path("scripts")) / "pytest"
    if "POSTTRAIN_OTHER_HOST" in os.environ and not script.exists():
        pytest.skip("editors call the environment's Python, and this one is another ComfyUI's own")
    place = copy(tmp_path / "ComfyUI-PostTrain")
    assert passed(run(script, folder=place)) == 12
    assert passed(run(sys.executable, "-m", "pytest", f"--rootdir={place}", place / TESTS, folder=place)) == 12
