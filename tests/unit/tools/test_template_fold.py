"""Folding nodes into a subgraph: what the page reads is whole, and what would be lost is refused."""

from __future__ import annotations

import pytest
from posttrain.tools.template import Fold
from posttrain.tools.template_file import renumber_links
from posttrain.tools.template_fold import fold

ENCODE = Fold("9", "Encode", {"clip": ["2.clip", "3.clip"], "words": ["2.text"]}, {"prompt": "2.0"}, [["2", "3"]])
SOURCE = {"2": {"inputs": {"text": "a cat"}}, "3": {"inputs": {"text": "a dog"}}}


def encoder(number: int, link: int, leaving: list[int]) -> dict:
    return {
        "id": number,
        "type": "CLIPTextEncode",
        "inputs": [
            {"name": "clip", "type": "CLIP", "link": link},
            {"name": "text", "type": "STRING", "widget": {"name": "text"}, "link": None},
        ],
        "outputs": [{"name": "CONDITIONING", "type": "CONDITIONING", "links": leaving or None}],
    }


def graph(*more: list) -> dict:
    """1 gives a CLIP to 2 and 3; 2's conditioning goes to 4, twice."""
    links = [
        [1, 1, 0, 2, 0, "CLIP"],
        [2, 1, 0, 3, 0, "CLIP"],
        [3, 2, 0, 4, 0, "CONDITIONING"],
        [4, 2, 0, 4, 1, "CONDITIONING"],
        *more,
    ]
    sampler = {
        "id": 4,
        "type": "S",
        "inputs": [{"name": n, "type": "CONDITIONING", "link": None} for n in "abc"],
        "outputs": [],
    }
    loader = {"id": 1, "type": "L", "inputs": [], "outputs": [{"type": "CLIP", "links": [1, 2]}]}
    return {"nodes": [loader, encoder(2, 1, [3, 4]), encoder(3, 2, []), sampler], "links": links, "last_node_id": 4}


def folded(one: Fold = ENCODE) -> tuple[dict, dict]:
    workflow = graph()
    fold(workflow, one, SOURCE, "test")
    renumber_links(workflow)
    return workflow, workflow["definitions"]["subgraphs"][0]


def test_one_link_in_two_inside_and_out_again():
    workflow, inside = folded()
    assert [node["id"] for node in workflow["nodes"]] == [1, 4, 9] and [node["id"] for node in inside["nodes"]] == [2, 3]
    assert sorted(link[1:5] for link in workflow["links"]) == [[1, 0, 9, 0], [9, 0, 4, 0], [9, 0, 4, 1]]
    ends = [tuple(link[key] for key in ("origin_id", "origin_slot", "target_id", "target_slot")) for link in inside["links"]]
    assert sorted(ends) == [(-10, 0, 2, 0), (-10, 0, 3, 0), (-10, 1, 2, 1), (2, 0, -20, 0)]
    numbers = [link[0] for link in workflow["links"]] + [link["id"] for link in inside["links"]]
    assert sorted(numbers) == list(range(1, 8)) and workflow["last_link_id"] == 7


def test_a_widget_inside_is_a_widget_outside():
    workflow, inside = folded()
    node = workflow["nodes"][-1]
    assert node["inputs"][1] == {
        "localized_name": "words",
        "name": "words",
        "type": "STRING",
        "link": None,
        "widget": {"name": "words"},
    }
    assert node["widgets_values"] == ["a cat"] and node["type"] == inside["id"]
    assert inside["nodes"][0]["inputs"][1]["link"] == inside["inputs"][1]["linkIds"][0]


def test_the_same_fold_of_another_template_is_another_definition():
    other = graph()
    fold(other, ENCODE, SOURCE, "other")
    assert other["definitions"]["subgraphs"][0]["id"] != folded()[1]["id"] == folded()[1]["id"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"inputs": {"clip": ["2.clip"]}}, "goes through 3.clip, which is none of its inputs"),
        ({"outputs": {}}, "goes through 2.0, which is none of its outputs"),
        ({"inputs": {"clip": ["2.clip", "3.clip"], "words": ["2.text", "3.text"]}}, "have the values"),
    ],
)
def test_what_would_be_lost_is_refused(changed, words):
    with pytest.raises(ValueError, match=words):
        folded(Fold(**{**ENCODE.__dict__, **changed}))
