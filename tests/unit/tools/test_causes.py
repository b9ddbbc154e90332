"""A set-up that cannot go on says what to do, in one sentence at its end: each cause is met for real."""
from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest
from posttrain.tools import causes, environment
from posttrain.tools.causes import AGAIN, CAUSES, advice
from posttrain.tools.environment import ROOT, Environment, SetupError, Step, make_venv, usable_python

PIP = (sys.executable, "-m", "pip", "download", "--no-deps", "six==1.17.0")
FULL = (sys.executable, "-c", "with open('/dev/full', 'w') as file: file.write('x')")
NO_ENSUREPIP = (sys.executable, "-c", "import sys; sys.path.clear(); import ensurepip")
READ_ONLY = (sys.executable, "-c", f"open({__file__!r} + '/x')")
# ComfyUI's own Python (--python) may have a setuptools that needs wheel, and no wheel; the environment's has it within
CAN_BUILD = find_spec("wheel") or find_spec("setuptools.command.bdist_wheel") or "POSTTRAIN_OTHER_HOST" not in os.environ
BUILD = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--target", "built", "./extension")
CASES = {  # the sentence's start: the command, and its variables; PORT answers 407, CLOSED nothing
    "The disk is full": (FULL, {}),
    "The proxy refuses the connection": (PIP, {"HTTPS_PROXY": "http://127.0.0.1:PORT"}),
    "The encrypted connection": (PIP, {"PIP_INDEX_URL": "https://127.0.0.1:PORT/simple"}),
    "The package index cannot be reached": (PIP, {"PIP_INDEX_URL": "http://127.0.0.1:CLOSED/simple"}),
    "This Python cannot make": (NO_ENSUREPIP, {}),
    "A package has to be compiled": (BUILD, {"CC": "/no/such/cc", "CXX": "/no/such/g++"}),
    "The package index offers no build": (PIP, {"PIP_NO_INDEX": "1"}),
    "The folder ": (READ_ONLY, {}),
}


@pytest.fixture
def step(tmp_path, monkeypatch):
    """A step of a set-up in an empty folder, without this machine's own settings of pip and of proxies."""
    for name in [n for n in os.environ if n.startswith("PIP_") or n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "1")
    return Step(Environment(tmp_path), "step 1 of 1: a trial", again=False)


@pytest.fixture
def port():
    """A server that answers every connection as a proxy does that wants a password."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=refuse, args=(server,), daemon=True).start()
        yield server.getsockname()[1]


def refuse(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:  # closed: the test is over
            return
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def extension(folder: Path) -> None:
    """A package whose C code nobody could compile without a compiler."""
    folder.mkdir()
    (folder / "setup.py").write_text("from setuptools import Extension, setup\n"
                                     "setup(name='extension', ext_modules=[Extension('extension', ['extension.c'])])\n")
    (folder / "extension.c").write_text("int one;\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="some of the causes are met as Linux shows them")
@pytest.mark.parametrize("start", CASES)
def test_each_cause_ends_in_a_sentence_that_says_what_to_do(step, port, tmp_path, monkeypatch, start):
    command, variables = CASES[start]
    if command == BUILD and not CAN_BUILD:
        pytest.skip("this Python builds no package, whether it has a compiler or not")
    extension(tmp_path / "extension")
    for name, value in variables.items():
        monkeypatch.setenv(name, value.replace("PORT", str(port)).replace("CLOSED", str(closed_port())))
    with pytest.raises(SetupError) as error:
        step.run(command, cwd=tmp_path)
    last = str(error.value).splitlines()[-1]
    assert last.startswith(start) and last.endswith(AGAIN), str(error.value)
    assert "{" not in last and str(step.env.log) in str(error.value)


def test_every_cause_is_met():
    starts = [next((start for start in CASES if sentence.startswith(start)), None) for _, sentence in CAUSES]
    assert starts == list(CASES)


def test_unknown_words_are_shown_with_what_to_do(step):
    with pytest.raises(SetupError, match="a riddle") as error:
        step.run([sys.executable, "-c", "raise SystemExit('a riddle')"])
    assert str(error.value).splitlines()[-1] == f"Mend what these last words name, {AGAIN}"


def test_only_the_last_command_counts(step):
    step.run([sys.executable, "-c", "print('ProxyError, but it went on')"])
    with pytest.raises(SetupError) as error:
        step.run([sys.executable, "-c", "raise SystemExit('a riddle')"])
    assert "roxy" not in str(error.value)


def test_the_users_directory_is_not_imported_from(step, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "pip.py").write_text("raise RuntimeError('the file of a user')")
    monkeypatch.chdir(tmp_path / "elsewhere")
    step.run([sys.executable, "-m", "pip", "--version"])
    step.run([sys.executable, "-c", "import pip"])


def test_a_full_disk_is_seen_where_nobody_names_it(tmp_path, monkeypatch):
    usage = causes.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(causes.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert advice("returned non-zero exit status 1", tmp_path / "not" / "yet").startswith("The disk is full")


def test_a_python_without_venv_says_so(step, tmp_path):
    (tmp_path / "venv.py").write_text("raise SystemExit('The virtual environment was not created successfully because "
                                      "ensurepip is not available.')")
    shadowed = tmp_path / "python"
    shadowed.write_text(f'#!/bin/sh\ncd "{tmp_path}" && exec "{sys.executable}" "$@"\n')
    shadowed.chmod(0o755)
    with pytest.raises(SetupError, match="install python3-venv"):
        make_venv(step, step.env, str(shadowed))


@pytest.mark.parametrize("version, word", [((3, 9, 1), "old"), ((3, 10, 0), "old"), ((3, 14, 0), "new")])
def test_an_unsupported_python_says_which_to_install(monkeypatch, tmp_path, version, word):
    monkeypatch.setattr(environment.sys, "version_info", version)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SetupError) as error:
        usable_python()
    assert f"Python 3.{version[1]} is too {word}" in str(error.value)
    assert str(error.value).endswith("Install Python 3.11 to 3.13 and run this again with it.")


def test_a_cache_that_is_no_folder_ends_develop_in_words(tmp_path):
    (tmp_path / "file").touch()
    variables = os.environ | dict.fromkeys(("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"), str(tmp_path / "file"))
    done = subprocess.run([sys.executable, "develop.py", "test"], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "cannot be written to" in done.stderr.splitlines()[-1]


def test_a_proxy_is_not_asked_for_this_machine(monkeypatch, tmp_path):
    import requests

    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "intranet")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    variables = Environment(tmp_path).variables()
    assert variables["NO_PROXY"] == variables["no_proxy"] == "intranet,127.0.0.1,localhost"
    monkeypatch.setenv("no_proxy", variables["no_proxy"])
    assert requests.utils.should_bypass_proxies("http://127.0.0.1:8188/", None)
    assert not requests.utils.should_bypass_proxies("http://huggingface.co/", None)
