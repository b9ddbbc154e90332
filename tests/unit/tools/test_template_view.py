"""As a template opens, its note and the node that shows what becomes of it are in sight, and clear of everything else."""

from __future__ import annotations

import json

import pytest
from posttrain.tools.host import ROOT
from posttrain.tools.template import Group, Template
from posttrain.tools.template_links import Box, boxes, graphs, over_nodes
from posttrain.tools.template_places import HEADER
from posttrain.tools.template_view import BEGINNING, LARGEST, SCREEN, open_on
from posttrain.tools.templates import TEMPLATES

TEMPLATE = Template("x", "X", "", [[Group("Start here", [["note"]]), Group("Loop", [["1", "2"]])]], [["2"]])


def on_screen(workflow: dict, node: int) -> Box:
    scale, (dx, dy) = workflow["extra"]["ds"]["scale"], workflow["extra"]["ds"]["offset"]
    left, top, right, bottom = boxes(workflow)[node]
    return Box((left + dx) * scale, (top + dy) * scale, (right + dx) * scale, (bottom + dy) * scale)


def assert_in_sight(workflow: dict, note: int, shown: int) -> None:
    """All of the node, and so much of the note."""
    begins = (BEGINNING - HEADER) * workflow["extra"]["ds"]["scale"]
    for box, bottom in (
        (found := on_screen(workflow, note), found.top + begins),
        (found := on_screen(workflow, shown), found.bottom),
    ):
        assert SCREEN.left - 8 <= box.left and box.right <= SCREEN.right + 8
        assert SCREEN.top - 8 <= box.top and bottom <= SCREEN.bottom + 8


def graph_with(links: list) -> dict:
    def node(number: int, x: int, y: int, width: int, height: int, kind: str = "PTLoopEnd") -> dict:
        sockets = {"inputs": [{"name": "in"}], "outputs": [{"name": "out"}]}
        return {"id": number, "type": kind, "pos": [x, y], "size": [width, height], **sockets}

    return {
        "nodes": [node(1, 1000, 100, 300, 200), node(2, 3000, 1000, 420, 640), node(9, 24, 78, 400, 540, "MarkdownNote")],
        "groups": [{"title": "Start here", "bounding": [0, 0, 448, 642]}, {"title": "Loop", "bounding": [2976, 922, 468, 742]}],
        "links": links,
        "extra": {},
    }


@pytest.mark.parametrize("links", [[], [[1, 1, 0, 2, 0, "X"]]])
def test_the_note_stands_beside_it_clear_of_groups_and_links(links):
    workflow = graph_with(links)
    open_on(workflow, TEMPLATE)
    assert_in_sight(workflow, 9, 2)
    assert workflow["groups"][0]["bounding"][:2] != [0, 0] and over_nodes(workflow) == []
    assert 0.6 < workflow["extra"]["ds"]["scale"] <= LARGEST


def test_what_is_walled_in_stays_and_is_seen_from_further_away():
    workflow = graph_with([])
    workflow["groups"].append({"title": "all around", "bounding": [-5000, -5000, 20000, 20000]})
    open_on(workflow, TEMPLATE)
    assert workflow["groups"][0]["bounding"][:2] == [0, 0] and workflow["extra"]["ds"]["scale"] < 0.3


@pytest.mark.parametrize("template", TEMPLATES, ids=[template.source for template in TEMPLATES])
def test_every_template_opens_on_both_at_a_size_that_can_be_read(template):
    workflow = json.loads((ROOT / "workflows" / f"{template.name}.json").read_text(encoding="utf-8"))
    assert workflow["extra"]["ds"]["scale"] >= 0.6
    note = next(node["id"] for node in graphs(workflow)[""]["nodes"] if node["type"] == "MarkdownNote")
    assert_in_sight(workflow, note, int(template.picture[0][0]))
