"""What two machines have, compared; tests/host has real processes do it."""

from __future__ import annotations

import folder_paths
import pytest
from posttrain.nodes import machines
from posttrain.rewards.base import ranks

GRAPH = {
    "1": {"class_type": "LoraLoaderModelOnly", "inputs": {"lora_name": "style.safetensors", "model": ["2", 0]}},
    "2": {"class_type": "PTPairs", "inputs": {"folder": "my_pairs"}},
    "3": {"class_type": "PTPrompts", "inputs": {"file": "prompts.txt", "about": "A cat. A dog."}},
    "4": {"class_type": "KSampler"},
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A machine with the files that GRAPH names. -> its folder."""
    for name in ("loras/style.safetensors", "input/my_pairs/one/a.png", "input/my_pairs/b.png", "input/prompts.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(1500))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path / "loras")], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path / "input"))
    return tmp_path


def test_all_that_a_workflow_names_is_looked_at(here):
    found = machines.what_is_here(GRAPH)
    assert found["models/loras/style.safetensors"] == "1,500 bytes"
    assert found["input my_pairs"] == "3,000 bytes" and found["input prompts.txt"] == "1,500 bytes"
    assert found["node KSampler"].startswith("nodes.py with ")
    assert {machines.WORKFLOW, machines.PACK, machines.COMFYUI} < found.keys() and len(found) == 8, found


CHANGES = {
    "a model's file is missing": (lambda here: (here / "loras/style.safetensors").unlink(), "style.safetensors is not there"),
    "a model's file is another one": (
        lambda here: (here / "loras/style.safetensors").write_bytes(bytes(7)),
        "models/loras/style.safetensors is another one, 7 bytes; rank 0 (first) has 1,500 bytes",
    ),
    "a picture is missing": (lambda here: (here / "input/my_pairs/b.png").unlink(), "input my_pairs is another one, 1,500"),
    "the prompts are others": (lambda here: (here / "input/prompts.txt").write_bytes(b"a cat"), "input prompts.txt is another"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_is_not_the_same_is_named(here, name):
    change, words = CHANGES[name]
    first = machines.what_is_here(GRAPH)
    assert machines.differences([("first", first), ("second", machines.what_is_here(GRAPH))]) == []
    change(here)
    (line,) = machines.differences([("first", first), ("second", machines.what_is_here(GRAPH))])
    assert line.startswith("rank 1 (second): ") and words in line


@pytest.mark.parametrize("what", [machines.WORKFLOW, machines.PACK, machines.COMFYUI, "node KSampler"])
def test_what_is_no_file_is_compared_too(what):
    same = {machines.WORKFLOW: "a", machines.PACK: "b", machines.COMFYUI: "c", "node KSampler": "d"}
    lines = machines.differences([("x", same), ("y", same | {what: "other"}), ("z", same)])
    assert lines == [f"rank 1 (y): {what} is another one, other; rank 0 (x) has {same[what]}"]


def test_a_node_that_the_first_rank_lacks_is_said_of_the_first(here):
    with_it = machines.what_is_here(GRAPH)
    without = {key: value for key, value in with_it.items() if key != "node KSampler"}
    (line,) = machines.differences([("x", without), ("y", with_it)])
    assert line.startswith("rank 0 (x): node KSampler is not there; rank 1 (y) has it, nodes.py with ")


@pytest.fixture
def second(monkeypatch):
    """This process is the second of two; the first one's answer is what is set."""

    def of(own: str, found: dict):
        monkeypatch.setattr(ranks, "count", lambda: 2)
        monkeypatch.setattr(ranks, "met", lambda what, value: [("first", own, found), value])

    return of


def test_machines_that_agree_begin(here, second):
    second("", machines.what_is_here(GRAPH))
    assert machines.fault(GRAPH) == ""


def test_a_workflow_that_one_cannot_read_is_said_to_all(second):
    second("x.json cannot be read", {})
    assert machines.fault(GRAPH).endswith("rank 0 (first): x.json cannot be read")
    assert machines.fault({}, "x.json cannot be read") == "x.json cannot be read"  # the same on all: no difference


def test_what_cannot_be_looked_at_is_said_and_nobody_waits(second, monkeypatch):
    def fails(_):
        raise PermissionError("models")

    second("", {})
    monkeypatch.setattr(machines, "what_is_here", fails)
    assert "rank 1 (" in machines.fault(GRAPH) and "PermissionError: models" in machines.fault(GRAPH)


def test_alone_nothing_is_compared():
    assert machines.fault({"no": "workflow"}) == "" and machines.fault({}, "it is wrong") == "it is wrong"


def test_a_model_counts_with_its_bytes_once_however_many_folders_have_it(here, monkeypatch):
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "checkpoints", ([str(here / "loras")], {".safetensors"}))
    assert machines.model_sizes(GRAPH) == [1500] and machines.model_sizes({}) == []
