"""Shipped workflows ask for as many updates per rollout as their images fill batches."""

from __future__ import annotations

import json
import math
from pathlib import Path

import posttrain
import pytest

SHIPPED = sorted((Path(posttrain.__path__[0]) / "workflows" / "api").glob("*.json"))
PAIRS_OF_STEPS, AS_RECOMMENDED = ("PTStepRollout",), -1


def source(graph: dict, node: dict, key: str) -> dict:
    return graph[node["inputs"][key][0]]


def pairs_from(rule: dict, sampling: dict) -> int:
    """Of an iteration, where every score differs."""
    each = sampling["images_per_prompt"]
    return sampling["prompts_per_iteration"] * (1 if rule["pairs"] == "best and worst" else each * (each - 1) // 2)


def steps(graph: dict):
    """(updates asked for, batches that there are) of each train step that says both."""
    for node in graph.values():
        if node["class_type"] not in ("PTTrainStep", "PTBackpropStep"):
            continue
        asked = source(graph, node, "trainer")["inputs"]["updates_per_rollout"]
        images = source(graph, node, "rollout") if "rollout" in node["inputs"] else node
        feedback = source(graph, node, "feedback") if "feedback" in node["inputs"] else None
        if asked == AS_RECOMMENDED or images["class_type"] in PAIRS_OF_STEPS:
            continue
        if images["class_type"] == "PTPairBatch":
            yield asked, math.ceil(2 * images["inputs"]["pairs_per_iteration"] / images["inputs"]["batch_size"])
            continue
        sampling = source(graph, images, "sampling")["inputs"]
        if feedback is not None and feedback["class_type"] == "PTPreferences":
            yield asked, math.ceil(pairs_from(feedback["inputs"], sampling) / max(1, sampling["batch_size"] // 2))
        else:
            made = sampling["prompts_per_iteration"] * sampling["images_per_prompt"]
            yield asked, math.ceil(made / sampling["batch_size"])


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_update_has_a_batch(file):
    for asked, batches in steps(json.loads(file.read_text(encoding="utf-8"))):
        assert asked <= batches


def test_most_workflows_say_both():
    assert sum(bool(list(steps(json.loads(file.read_text(encoding="utf-8"))))) for file in SHIPPED) >= 10
