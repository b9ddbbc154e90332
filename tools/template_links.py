"""How well a serialised graph can be read: its links as straight pieces, how often they cross, and which run over nodes.

A piece goes from a socket or a bend to the next one; a piece that several links share counts once. Lengths are units of the
graph, and sockets are where the canvas draws them.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

FIRST_SLOT, SLOT, WIDGET = 14, 20, 16  # of a socket below its node's top; of the first widget's socket below the last slot
TITLE = 30  # of a node, above its top
INSET = 2  # by which a link may touch a node's edge
BORDER_IN, BORDER_OUT = -10, -20


class Piece(NamedTuple):
    """x, y of both ends, and the output that it comes from."""

    x0: float
    y0: float
    x1: float
    y1: float
    output: tuple[int, int]


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float


def graphs(workflow: dict) -> dict[str, dict]:
    """The graph itself as "", and its subgraphs by name."""
    return {"": workflow} | {one["name"]: one for one in workflow.get("definitions", {}).get("subgraphs", [])}


def links_of(graph: dict) -> list[tuple]:
    """(id, origin, its slot, target, its slot) of each link."""
    return [
        (one["id"], one["origin_id"], one["origin_slot"], one["target_id"], one["target_slot"])
        if isinstance(one, dict)
        else tuple(one[:5])
        for one in graph["links"]
    ]


def boxes(graph: dict) -> dict[int, Box]:
    """Every node with its title."""
    return {
        node["id"]: Box(
            node["pos"][0], node["pos"][1] - TITLE, node["pos"][0] + node["size"][0], node["pos"][1] + node["size"][1]
        )
        for node in graph["nodes"]
    }


def input_height(node: dict, slot: int) -> int:
    """Of an input below its node's top."""
    entries = node["inputs"]
    sockets = [entry for entry in entries if "widget" not in entry]
    if "widget" not in entries[slot]:
        return FIRST_SLOT + SLOT * sockets.index(entries[slot])
    return SLOT * max(len(sockets), len(node.get("outputs", []))) + WIDGET


def ends(graph: dict, link: tuple) -> tuple[list[float], list[float]]:
    _, origin, out, target, into = link
    nodes = {node["id"]: node for node in graph["nodes"]}
    start = (
        graph["inputs"][out]["pos"]
        if origin == BORDER_IN
        else [nodes[origin]["pos"][0] + nodes[origin]["size"][0], nodes[origin]["pos"][1] + FIRST_SLOT + SLOT * out]
    )
    end = (
        graph["outputs"][into]["pos"]
        if target == BORDER_OUT
        else [nodes[target]["pos"][0], nodes[target]["pos"][1] + input_height(nodes[target], into)]
    )
    return start, end


def bends(graph: dict, link: int) -> list[list[float]]:
    """The reroutes that a link passes through, in its direction."""
    extra = graph.get("extra", {})
    known = {one["id"]: one for one in extra.get("reroutes", [])}
    last = {one["id"]: one["parentId"] for one in extra.get("linkExtensions", [])}.get(link)
    found: list[list[float]] = []
    while last is not None:
        found.insert(0, known[last]["pos"])
        last = known[last].get("parentId")
    return found


def pieces(graph: dict) -> list[Piece]:
    found = {}
    for link in links_of(graph):
        start, end = ends(graph, link)
        path = [start, *bends(graph, link[0]), end]
        for a, b in zip(path, path[1:]):
            found[Piece(*a, *b, (link[1], link[2]))] = None
    return list(found)


def crosses(a: Piece, b: Piece) -> bool:
    """Whether two pieces of different outputs cross; meeting at an end is no crossing."""

    def side(p: Piece, x: float, y: float) -> float:
        return (p.x1 - p.x0) * (y - p.y0) - (p.y1 - p.y0) * (x - p.x0)

    return (
        a.output != b.output and side(a, b.x0, b.y0) * side(a, b.x1, b.y1) < 0 and side(b, a.x0, a.y0) * side(b, a.x1, a.y1) < 0
    )


def crossings(found: list[Piece]) -> int:
    return sum(crosses(a, b) for a, b in combinations(found, 2))


def runs_over(piece: Piece, box: Box) -> bool:
    """Whether the piece passes through the box: the segment is cut off at each side in turn, and something is left."""
    dx, dy = piece.x1 - piece.x0, piece.y1 - piece.y0
    first, last = 0.0, 1.0
    for step, room in (
        (-dx, piece.x0 - box.left - INSET),
        (dx, box.right - INSET - piece.x0),
        (-dy, piece.y0 - box.top - INSET),
        (dy, box.bottom - INSET - piece.y0),
    ):
        if step == 0:
            if room <= 0:
                return False
        elif step < 0:
            first = max(first, room / step)
        else:
            last = min(last, room / step)
    return first < last


def over_nodes(graph: dict) -> list[tuple[Piece, int]]:
    """Pieces that run over a node, its own ones too, and that node."""
    return [(piece, node) for piece in pieces(graph) for node, box in boxes(graph).items() if runs_over(piece, box)]
