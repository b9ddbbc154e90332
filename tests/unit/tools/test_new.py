"""``develop.py new`` in a copy of the tree: what it writes works, and passes the suite as it is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from posttrain.tools import new, tree

# what an addition has to pass, beside its own tests
SUITE = (
    "tests/unit/test_structure.py",
    "tests/unit/tools/test_make_docs.py",
    "tests/unit/nodes/test_plain_words.py",
    "tests/unit/nodes/test_menus.py",
    "tests/unit/trainers/engine/test_limits.py",
)


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def written(output: str) -> list[str]:
    return re.findall(r"^  (\S+/\S+)$", output.split("Written:")[1], re.MULTILINE)


def suite_passes(folder: Path, tests: list[str]) -> str:
    """The output; every one of the tests was run."""
    output = run(folder, "develop.py", "test", "-q", *tests, *SUITE)
    assert int(re.search(r"(\d+) passed", output)[1]) > 300, output
    return output


def test_what_it_writes_passes_the_suite(tmp_path):
    place = tmp_path / "ComfyUI-PostTrain"
    tree.copy(place)
    outputs = [
        run(place, "develop.py", "new", "reward", "Edge Density"),
        run(place, "develop.py", "new", "trainer", "ABetterWay2"),
    ]
    files = [name for output in outputs for name in written(output)]
    assert {
        "nodes/rewards/edge_density.py",
        "web/docs/PTRewardEdgeDensity.md",
        "trainers/a_better_way_2.py",
        "trainers/losses/a_better_way_2.py",
        "web/docs/PTABetterWay2.md",
    } <= {*files} and len(files) == 13
    assert "PTRewardEdgeDensity: everything" in outputs[0] and "PTABetterWay2: everything" in outputs[1]
    own = [name for name in files if not name.endswith((".md", "nodes/__init__.py", "methods.py"))]
    for check in (("check",), ("format", "--check")):
        run(place, "-m", "ruff", *check, "--no-cache", *own)
    tests = [name for name in files if name.startswith("tests/")]
    assert len(tests) == 3
    output = suite_passes(place, tests)
    assert "no Chinese yet: PTABetterWay2: everything" in output and "no Chinese yet: PTRewardEdgeDensity: everything" in output
    assert "a_better_way_2 is taken" in run(place, "develop.py", "new", "trainer", "a better way 2", code=1)


@pytest.mark.parametrize(
    "kind, name, words",
    [
        ("reward", "Sum", "web/docs/PTRewardSum.md exists already"),
        ("trainer", "rwr", "rwr is taken"),
        ("trainer", "class", "class is taken"),
        ("reward", "../evil", "cannot name a module"),
        ("reward", "2 many", "cannot name"),
        ("reward", "", "cannot name a module"),
        ("trainer", "methods", "trainers/methods.py exists already"),
    ],
)
def test_a_name_that_is_taken_or_none_is_refused(kind, name, words, monkeypatch):
    def nothing(*_, **__):
        raise AssertionError("written in spite of it")

    monkeypatch.setattr(Path, "write_text", nothing)
    with pytest.raises(new.Refused, match=re.escape(words)):
        new.write(kind, name)


@pytest.mark.parametrize(
    "name, module, camel, title",
    [
        ("Edge Density", "edge_density", "EdgeDensity", "Edge Density"),
        ("ABetterWay2", "a_better_way_2", "ABetterWay2", "A Better Way 2"),
        ("myMethod", "my_method", "MyMethod", "My Method"),
        ("DPO", "dpo", "DPO", "DPO"),
    ],
)
def test_names(name, module, camel, title):
    words = new.words_of(name)
    assert (words["name"], words["Camel"], words["Title"]) == (module, camel, title)
