"""CONTRIBUTING.md's recipes, followed word by word in a copy of the tree."""

from __future__ import annotations

import re

import pytest
from posttrain.tools import new, tree
from posttrain.tools.environment import ROOT

from .test_new import run

PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILE = re.compile(r"New file `([^`]+)`[^\n]*:\n\n(?P<fence>`{3,})\w+\n(.*?)(?P=fence)\n", re.DOTALL)
NODE = re.compile(r"In `nodes/__init__\.py`, add `(\w+)` to the names imported from `\.(\w+)` and to `MODULES`\.")
METHOD = re.compile(
    r"In `trainers/methods\.py`, import `(\w+)` and `train_(\w+)` from `\.(\w+)` and add the row\s"
    r"`\1: Method\(train_\2, cost=lambda s, w: w\.noised\(s\.levels\)\)` to `METHODS`\."
)
SUITE = ("unit/test_structure.py", "unit/tools/test_make_docs.py", "unit/nodes", "unit/trainers/engine/test_limits.py")


def recipe(title: str) -> str:
    (found,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", re.sub(FENCED, hidden, PAGE), re.MULTILINE | re.DOTALL)
    return found.replace("\0", "#")


FENCED = re.compile(r"(?P<fence>`{3,})\w*\n.*?(?P=fence)\n", re.DOTALL)


def hidden(fenced: re.Match) -> str:
    """A page within the page has headings of its own."""
    return fenced[0].replace("#", "\0")


def code(files: dict[str, str]) -> int:
    """Lines of Python without the tests' and the empty ones."""
    texts = [text for name, text in files.items() if name.endswith(".py") and not name.startswith("tests/")]
    return sum(bool(line.strip()) for text in texts for line in text.splitlines())


def files_of(text: str) -> dict[str, str]:
    return {place: content for place, _, content in FILE.findall(text)}


def test_they_are_as_short_as_they_say():
    reward, node, trainer = map(recipe, ("A reward in 30 lines", "A node", "A trainer in 100 lines"))
    assert code(files_of(reward)) <= 30 and code(files_of(trainer)) <= 100
    assert [len(files_of(each)) for each in (reward, node, trainer)] == [2, 2, 5]


def test_every_instruction_is_one_that_the_test_follows():
    assert PAGE.count("New file `") + PAGE.count("new file `") == len(FILE.findall(PAGE)) == 9
    assert len(re.findall(r"^In `", PAGE, re.MULTILINE)) == len(NODE.findall(PAGE)) + len(METHOD.findall(PAGE)) == 3


def test_what_they_make_passes_the_suite(tmp_path):
    place = tmp_path / "ComfyUI-PostTrain"
    tree.copy(place)
    files = files_of(PAGE)
    for name, text in files.items():
        assert not (place / name).exists()
        (place / name).write_text(text, encoding="utf-8")
    nodes, methods = place / "nodes" / "__init__.py", place / "trainers" / "methods.py"
    for name, room in NODE.findall(PAGE):
        nodes.write_text(new.with_node(nodes.read_text(encoding="utf-8"), room, name), encoding="utf-8")
    for kind, function, module in METHOD.findall(PAGE):
        assert function == module
        words = {"name": module, "Camel": kind}
        methods.write_text(new.with_method(methods.read_text(encoding="utf-8"), words), encoding="utf-8")
    own = [name for name in files if name.endswith(".py")]
    tests = [name for name in own if name.startswith("tests/")]
    for check in (("check",), ("format", "--check")):
        run(place, "-m", "ruff", *check, "--no-cache", *own)
    run(place, "develop.py", "docs")
    output = run(place, "develop.py", "test", "-q", *tests, *(f"tests/{name}" for name in SUITE))
    assert int(re.search(r"(\d+) passed", output)[1]) > 300, output
    lacking = re.findall(r"no Chinese yet: (PT\w+): everything", output)
    assert {"PTRewardWarmth", "PTBestOfBatch"} <= {*lacking}


@pytest.mark.parametrize("command", re.findall(r"^python develop\.py (\w+)", PAGE, re.MULTILINE))
def test_every_command_exists(command):
    assert f'("{command}", ' in (ROOT / "develop.py").read_text(encoding="utf-8")
