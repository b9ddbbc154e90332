"""The tool that changes the pack's modules, on a small pack of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TINY = '''"""A module with one function that is tested and one that is not."""

HALF = 0.5
ANSWER = 42
LIMITS = [lambda x: x + 3]


class Scale:
    def twice(self, x):
        return x * 2


def measured(x, y):
    if x == y:
        raise ValueError(x + y)
    return x - y if x > y else HALF * (y - x)


def untested(x, y):
    return x - y


def alike(x, y):
    return (x * y) + 0.0


def same(x):
    return divmod(x, x)
'''
TESTS = """import time

import pytest
from posttrain.trainers.tiny import ANSWER, LIMITS, Scale, alike, measured, same, untested


def test_good():
    assert measured(5, 3) == 2 and measured(3, 5) == 1 and Scale().twice(3) == 6 and LIMITS[0](1) == 4


def test_that_asserts_nothing_of_it():
    assert untested(4, 1) is not None and alike(1, 1) == 1 and same(3)


def test_that_runs_nothing_of_it():
    assert ANSWER == 42


def test_broken():
    assert measured(5, 3) == 9
"""
CONFTEST = """import sys, types
from pathlib import Path

pack = sys.modules.setdefault("posttrain", types.ModuleType("posttrain"))
pack.__path__ = [str(Path(__file__).resolve().parent.parent)]
"""
KNOWN = """# file | function | old -> new | reason
trainers/tiny.py | alike | x * y -> x / y | the tests know only ones
trainers/tiny.py | measured | x > y -> x >= y | they are never equal there
trainers/tiny.py | untested | x - y -> x * y | no such change
trainers/gone.py | old | 1 -> 2 | its file went
trainers/tiny.py | untested | x - y -> x + y |
"""


@pytest.fixture
def pack(tmp_path) -> Path:
    files = {
        "trainers/tiny.py": TINY,
        "trainers/__init__.py": "",
        "tests/unit/trainers/test_tiny.py": TESTS,
        "tests/conftest.py": CONFTEST,
        "tools/__init__.py": "",
        "tools/mutants.txt": KNOWN,
        "pyproject.toml": "[tool.pytest.ini_options]\naddopts = '--import-mode=importlib'\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name in ("mutate", "mutations", "mutants_in_place", "mutants_known"):
        shutil.copy(ROOT / "tools" / f"{name}.py", tmp_path / "tools")
    return tmp_path


def begin(pack: Path, *arguments: str) -> subprocess.Popen:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COMFYUI", "PYTEST"))}
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import runpy; runpy.run_module('tools.mutate', None, '__main__', True)",
            "trainers/tiny.py",
            *arguments,
        ],
        cwd=pack,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | {"POSTTRAIN_CACHE": str(pack / "cache")},
        start_new_session=True,
    )


def sources(pack: Path) -> dict[str, str]:
    return {str(file): file.read_text() for file in pack.rglob("*.py") if "cache" not in file.parts}


def run(pack: Path, *arguments: str) -> tuple[int, list[str]]:
    process = begin(pack, *arguments)
    lines = process.communicate(timeout=120)[0].splitlines()
    return process.returncode, [
        line.strip() for line in lines if "tiny.py" in line or "mutants.txt" in line or "fail before" in line
    ]


def test_survivors_are_listed_and_nothing_else(pack):
    before = sources(pack)
    code, lines = run(pack)
    assert code == 1
    assert [line.split(":", 1)[1] for line in lines if " | " in line and line.startswith("trainers")] == [
        "20 | untested | x - y -> x + y",
        "20 | untested | x - y -> y - x",
        "24 | alike | x * y + 0.0 -> x * y - 0.0",
    ]
    assert "1 tests fail before anything is changed and are left out: tests/unit/trainers/test_tiny.py::test_broken" in lines
    assert [line for line in lines if "fits nothing" in line] == [
        "mutants.txt: fits nothing any more: trainers/gone.py | old | 1 -> 2",
        "mutants.txt: fits nothing any more: trainers/tiny.py | untested | x - y -> x * y",
    ]
    (end,) = [line for line in lines if "changes," in line]
    assert end.startswith("trainers/tiny.py: 18 changes, 2 left out, 13 noticed, 3 noticed by no test"), (
        "HALF, ANSWER and LIMITS too"
    )
    assert sources(pack) == before


def test_a_second_run_tries_only_what_changed(pack):
    first = run(pack)[1]
    kept = (pack / "cache" / "mutants" / "noticed.jsonl").read_text()
    assert [line.split(";")[0] for line in run(pack)[1]] == [line.split(";")[0] for line in first]
    assert (pack / "cache" / "mutants" / "noticed.jsonl").read_text() == kept, "nothing that was noticed is tried again"
    weak = TESTS.replace("measured(3, 5) == 1", "measured(3, 5)")
    (pack / "tests/unit/trainers/test_tiny.py").write_text(weak)
    assert any("measured | HALF * (y - x) -> HALF / (y - x)" in line for line in run(pack)[1]), (
        "the test that noticed it is another"
    )


def test_the_sources_stay_as_they_are_when_it_is_interrupted(pack):
    slow = TESTS.replace("    assert measured(5, 3) == 2", "    time.sleep(0.5)\n    assert measured(5, 3) == 2")
    (pack / "tests/unit/trainers/test_tiny.py").write_text(slow)
    before, process = sources(pack), begin(pack)
    noticed = pack / "cache" / "mutants" / "noticed.jsonl"
    end = time.monotonic() + 60
    while time.monotonic() < end and not noticed.is_file():
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert noticed.is_file() and process.returncode != 0
    assert sources(pack) == before
