"""Runs that an earlier version of the pack wrote go on, with the graph as it was and as the page writes it today.

tests/older/runs: two iterations each of the wired loop and of Train on the demo model, made on 27 November 2026.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from posttrain.tests.host.lab_graph import summary
from posttrain.trainers.run.checkpoints import list_checkpoints, load_checkpoint

OLDER = Path(__file__).resolve().parents[1] / "older" / "runs"
NAMES = {"wired": "wired", "one_node": "one node"}
LOOPS = {"PTLoopStart", "PTTrain"}


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def graph_of(which: str, run: str) -> dict:
    graph = json.loads((OLDER / which / "graph.json").read_text("utf-8"))
    for node in graph.values():
        if node["class_type"] in LOOPS:
            node["inputs"] |= {"run_name": run, "iterations": 4}
    return graph


def as_the_page_writes_it(host, graph: dict) -> dict:
    """With every widget that has come since, at its default."""
    known = host.get("/object_info").json()
    for node in graph.values():
        inputs = known[node["class_type"]]["input"]
        for key, spec in (inputs.get("required", {}) | inputs.get("optional", {})).items():
            if len(spec) > 1 and "default" in spec[1]:
                node["inputs"].setdefault(key, spec[1]["default"])
    return graph


# Train's graph came by the API and leaves widgets out, so what the page would write for them is another training
CASES = {"wired": ("wired", False), "wired, opened and queued in today's page": ("wired", True), "Train": ("one_node", False)}


@pytest.mark.parametrize("which, of_the_page", CASES.values(), ids=CASES)
def test_it_goes_on_without_a_question(host, which, of_the_page):
    run = f"{NAMES[which]} {'page' if of_the_page else 'as it was'}"
    folder = host.base / "output" / "posttrain" / run
    shutil.copytree(OLDER / which, folder)
    (folder / "graph.json").unlink()
    graph, before = graph_of(which, run), lines(folder)
    result = host.run(as_the_page_writes_it(host, graph) if of_the_page else graph)
    assert result.event == "success", result.text
    assert lines(folder)[:2] == before and [line["iteration"] for line in lines(folder)] == [1, 2, 3, 4]
    config, old = (json.loads((each / "config.json").read_text("utf-8")) for each in (folder, OLDER / which))
    assert config["id"] == old["id"] and config["changes"] == [] and config["status"] == "done"
    (_, first), (_, last) = list_checkpoints(folder / "checkpoints")
    (_, then, meta_then), (iteration, now, meta_now) = load_checkpoint(first), load_checkpoint(last)
    assert iteration == 4 and now.keys() == then.keys() and meta_now["step"] == 2 * meta_then["step"] > 0
    assert any(not torch.equal(now[key], then[key]) for key in now)
    assert "4" in summary(result)


def test_a_change_is_asked_about_still(host):
    folder = host.base / "output" / "posttrain" / "asked"
    shutil.copytree(OLDER / "wired", folder)
    graph = as_the_page_writes_it(host, graph_of("wired", "asked"))
    trainer = next(node for node in graph.values() if node["class_type"] == "PTFlowGRPO")
    trainer["inputs"]["learning_rate"] *= 2
    result = host.run(graph)
    assert result.event == "error" and "was trained with other settings" in result.text
    assert result.text.count(" -> ") == 1 and "learning_rate" in result.text, result.text
