"""A template's file does not depend on which page serialised its graph."""
from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from posttrain.tools.template_file import same_everywhere, written
from posttrain.tools.template_links import graphs
from posttrain.tools.templates_own import ONE_BLOCK, OWN

FILES = sorted((Path(__file__).resolve().parents[3] / "workflows").glob("*.json"))


def as_another_page_writes(workflow: dict) -> dict:
    """The same graph with other link numbers in another order, another id, and what newer pages and hosts add or leave out."""
    old = [link[0] for link in workflow["links"]]
    new = dict(zip(old, random.Random(0).sample(range(100, 999), len(old))))
    workflow |= {"id": "other", "last_link_id": 999}
    workflow["links"] = [[new[link[0]], *link[1:5], "A_TYPE,ANOTHER"] for link in reversed(workflow["links"])]
    for node in workflow["nodes"]:
        node["widgets_values_named"] = {"a": 1}
        for entry in node.get("inputs", []):
            entry["link"] = new.get(entry["link"])
        for output in node.get("outputs", []):
            output["links"] = output["links"] and [new[link] for link in reversed(output["links"])]
        if node["type"] in ("PreviewImage", "PreviewAny"):
            node["outputs"] = [{"name": "shown", "type": "IMAGE", "links": None}]
    workflow["extra"] |= {"workflowRendererVersion": "LG", "frontendVersion": "9.9", "ds": {"scale": 2, "offset": [0, 0]}}
    return workflow


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_it_is_the_same_file(file):
    shipped = file.read_text(encoding="utf-8")
    flat = json.loads(shipped)  # what is folded and led around bends is written by tools/ alone
    for added in ("reroutes", "linkExtensions", "linearMode", "linearData"):
        flat["extra"].pop(added, None)
    flat.pop("definitions", None)
    same_everywhere(flat, flat["id"])
    other = as_another_page_writes(json.loads(written(flat)))
    assert json.dumps(other) != json.dumps(flat)
    same_everywhere(other, flat["id"])
    assert written(other) == written(flat)


def test_values_go_by_place_and_stop_before_a_widget_that_newer_hosts_have_put_in_between():
    """Of Train LoRA: quantized_backward, in the place of the older ones' algorithm."""
    workflow = json.loads((FILES[0].parent / "Improve a LoRA that you have.json").read_text(encoding="utf-8"))
    (node,) = [one for graph in graphs(workflow).values() for one in graph["nodes"] if one["type"] == "TrainLoraNode"]
    assert node["widgets_values"][-2:] == ["fp32", "fp32"]
    longer = {"nodes": [{**node, "inputs": [], "outputs": [], "widgets_values": [*node["widgets_values"], False, "LoRA"]}], "links": []}
    same_everywhere(longer, "")
    assert longer["nodes"][0]["widgets_values"] == node["widgets_values"]


@pytest.mark.parametrize("template", OWN, ids=[template.source for template in OWN])
def test_a_template_for_a_model_of_ones_own_is_an_app_of_a_handful_of_widgets_in_words(template):
    """Model, what it shall learn, memory, how long, name: nothing else."""
    workflow = json.loads((FILES[0].parent / f"{template.name}.json").read_text(encoding="utf-8"))
    assert workflow["extra"]["linearMode"] is True
    shown, nodes = workflow["extra"]["linearData"], {node["id"]: node for node in workflow["nodes"]}
    sockets = [next(one for one in nodes[node]["inputs"] if one["name"] == name) for node, name in shown["inputs"]]
    first, *rest = [one.get("label", one["name"]) for one in sockets]
    assert first in ("checkpoint", "model file")
    assert rest == ["prompts", "goal", "folder or words", "pictures at once", "iterations", "run name"]
    kinds = [nodes[node]["type"] for node in shown["outputs"]]
    assert kinds == ["PreviewImage" if template is ONE_BLOCK else "PTTrain", "PreviewImage", "PreviewImage"], "curve, before, after"
