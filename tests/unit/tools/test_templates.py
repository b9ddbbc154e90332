"""Shipped workflows ask for as many updates per rollout as their images fill batches."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from posttrain.tools.graphs import images_at_once, source_of_images, train_steps
from posttrain.tools.training import WORKFLOWS, load_workflow

SHIPPED = sorted(file.stem for file in WORKFLOWS.glob("*.json"))
AS_RECOMMENDED = -1


def updates_and_batches(graph: dict) -> Iterator[tuple[int, int]]:
    """(updates asked for, batches that there are) of each train step that says both; pairs inside the steps are far more."""
    for step in train_steps(graph):
        asked = graph[step["inputs"]["trainer"][0]]["inputs"]["updates_per_rollout"]
        source = source_of_images(graph, step)
        if asked != AS_RECOMMENDED and source["class_type"] != "PTStepRollout":
            sizes = source["inputs"] if "batch_size" in source["inputs"] else sampling_of(graph, source)
            yield asked, math.ceil(images_to_learn_from(graph, step) / sizes["batch_size"])


def sampling_of(graph: dict, source: dict) -> dict:
    return graph[source["inputs"]["sampling"][0]]["inputs"]


def images_to_learn_from(graph: dict, step: dict) -> int:
    """Where every score differs; an image counts in each of its pairs."""
    source = source_of_images(graph, step)
    feedback = graph[step["inputs"]["feedback"][0]] if "feedback" in step["inputs"] else source
    if feedback["class_type"] != "PTPreferences":
        return images_at_once(graph, source)
    sampling = sampling_of(graph, source)
    pairs = {"best and worst": 1, "all pairs": math.comb(sampling["images_per_prompt"], 2)}
    return 2 * sampling["prompts_per_iteration"] * pairs[feedback["inputs"]["pairs"]]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_update_has_a_batch(name):
    for asked, batches in updates_and_batches(load_workflow(name)):
        assert asked <= batches


def test_most_workflows_say_both():
    assert sum(bool(list(updates_and_batches(load_workflow(name)))) for name in SHIPPED) >= 10
