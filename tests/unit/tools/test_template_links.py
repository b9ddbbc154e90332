"""Crossings and links over nodes: counted in graphs drawn by hand, then in every shipped template and block."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from posttrain.tools.template_links import crossings, graphs, links_of, over_nodes, pieces

ROOT = Path(__file__).resolve().parents[3]
FILES = sorted(file for folder in ("workflows", "subgraphs") for file in (ROOT / folder).glob("*.json"))
CROSSINGS_A_LINK = 0.35  # the median of ComfyUI's own templates of this size


def node(number: int, x: int, y: int, inputs: int = 1, outputs: int = 1) -> dict:
    return {
        "id": number,
        "pos": [x, y],
        "size": [100, 100],
        "inputs": [{"name": str(i)} for i in range(inputs)],
        "outputs": [{} for _ in range(outputs)],
    }


def graph(links: list[tuple[int, int, int, int]], *nodes: dict, **extra) -> dict:
    return {"nodes": list(nodes), "links": [[i, *link, "A"] for i, link in enumerate(links, 1)], "extra": extra}


SQUARE = [node(1, 0, 0), node(2, 0, 300), node(3, 500, 0), node(4, 500, 300)]


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ([(1, 0, 3, 0), (2, 0, 4, 0)], 0),  # side by side
        ([(1, 0, 4, 0), (2, 0, 3, 0)], 1),  # an X
        ([(1, 0, 3, 0), (1, 0, 4, 0)], 0),  # two of one output
        ([(1, 0, 4, 0), (2, 0, 4, 0)], 0),  # meeting in one input
        ([(1, 0, 4, 0), (2, 0, 3, 0), (1, 0, 3, 0)], 1),
    ],
)
def test_crossings(links, expected):
    assert crossings(pieces(graph(links, *SQUARE))) == expected


def test_two_outputs_of_one_node_that_change_places_cross():
    nodes = [node(1, 0, 0, outputs=2), node(2, 500, 0, inputs=2)]
    assert crossings(pieces(graph([(1, 0, 2, 0), (1, 1, 2, 1)], *nodes))) == 0
    assert crossings(pieces(graph([(1, 0, 2, 1), (1, 1, 2, 0)], *nodes))) == 1


def test_over_a_node():
    between, aside = node(5, 250, 0), node(5, 250, 200)
    assert [found for _, found in over_nodes(graph([(1, 0, 3, 0)], *SQUARE, between))] == [5]
    assert over_nodes(graph([(1, 0, 3, 0)], *SQUARE, aside)) == []
    assert {found for _, found in over_nodes(graph([(3, 0, 1, 0)], *SQUARE))} == {1, 3}, "backwards, over its own two nodes"


def test_a_bend_leads_around_and_is_shared():
    extra = {
        "reroutes": [{"id": 1, "pos": [300, -200], "linkIds": [1, 2]}],
        "linkExtensions": [{"id": 1, "parentId": 1}, {"id": 2, "parentId": 1}],
    }
    bent = graph([(1, 0, 3, 0), (1, 0, 4, 0)], *SQUARE, node(5, 250, 0), **extra)
    assert len(pieces(bent)) == 3 and len(links_of(bent)) == 2
    assert [piece.x1 for piece, _ in over_nodes(bent)] == [], "the piece to the bend is one"


def counted(file: Path) -> tuple[int, int]:
    """Crossings and links, those of its subgraphs with them."""
    found = graphs(json.loads(file.read_text(encoding="utf-8"))).values()
    return sum(crossings(pieces(one)) for one in found), sum(len(links_of(one)) for one in found)


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_the_table_in_the_docs_says_what_is_counted(file):
    (crossed, links), name = counted(file), f"{'Block: ' if file.parent.name == 'subgraphs' else ''}{file.stem}"
    rows = (ROOT / "docs/page.md").read_text(encoding="utf-8").splitlines()
    now = f"| {crossed} of {links} ({crossed / links:.2f}) | 0 |"
    assert [row.endswith(now) for row in rows if row.startswith(f"| {name} | ") and row.count("|") == 6] == [True]


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_template_or_block_can_be_read(file):
    for name, one in graphs(json.loads(file.read_text(encoding="utf-8"))).items():
        assert over_nodes(one) == [], f"links of {name or 'the graph'} run over nodes"
    crossed, links = counted(file)
    assert crossed <= CROSSINGS_A_LINK * links, f"{crossed} crossings of {links} links"
