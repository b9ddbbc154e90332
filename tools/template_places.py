"""Where the nodes of a template stand: in rows of groups of columns, or where tools/arrange_templates.py has found room for them.

Places are kept in template_places.json: graph -> {"nodes": {id: [x, y, width]}, "groups": {title: [left, top, right, bottom]},
"bends": [[x, y], ...]}. The inside of a fold has an entry of its own, by its title or the name that it gives.
"""

from __future__ import annotations

import json
from pathlib import Path

from .template import Fold, Group, Template

FILE = Path(__file__).with_name("template_places.json")
GAP_X, GAP_Y, GROUP_GAP, PADDING, HEADER = 50, 54, 60, 24, 78
COLOURS = ("#666", "#8A8", "#a1824a", "#88A", "#3f789e", "#6a7a8f")
ROW, STOCK_LINE, PACK_LINE = 5, 10, 44  # what a node is higher in Nodes 2.0: its rows, and the line with the pack's name


def known() -> dict[str, dict]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}


def key(node: dict) -> str:
    return "note" if node["type"] == "MarkdownNote" else str(node["id"])


def room(node: dict) -> int:
    """The height that a node takes on either way of drawing it."""
    if node["type"] == "MarkdownNote":
        return node["size"][1]
    rows = sum("widget" in entry for entry in node.get("inputs", []))
    return node["size"][1] + ROW * rows + (PACK_LINE if node["type"].startswith("PT") else STOCK_LINE)


def place(workflow: dict, template: Template) -> None:
    """Puts every node in its place. ValueError where one is in no column."""
    places = known()
    named = {key(node): node for node in workflow["nodes"]}
    found = places.get(template.source)
    if found is None or set(found["nodes"]) != set(named):
        found = in_rows(named, template.rows)
    set_places(named, found, template.source)
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(found["groups"]))]
    workflow["groups"] = [
        {
            "id": i,
            "title": title,
            "bounding": [left, top, right - left, bottom - top],
            "color": colour,
            "font_size": 24,
            "flags": {},
        }
        for i, ((title, (left, top, right, bottom)), colour) in enumerate(zip(found["groups"].items(), colours), 1)
    ]
    bend(workflow, template, found.get("bends", []))
    for definition, one in zip(workflow.get("definitions", {}).get("subgraphs", []), template.folds):
        place_inside(definition, one, places.get(of_fold(one)))


def of_fold(one: Fold) -> str:
    """The name under which the inside of a fold is kept."""
    return one.places or one.title


def set_places(nodes: dict[str, dict], found: dict, name: str) -> None:
    if left_out := sorted(set(nodes) - set(found["nodes"])):
        raise ValueError(f"{name}: the nodes {', '.join(left_out)} are in no column of the layout")
    for one, node in nodes.items():
        x, y, width = found["nodes"][one]
        node["pos"], node["size"] = [x, y], [width, node["size"][1]]


def in_rows(nodes: dict[str, dict], rows: list[list[Group]]) -> dict:
    """Places in rows of groups, side by side."""
    places: dict = {"nodes": {}, "groups": {}}
    top = 0
    for row in rows:
        left, bottom = 0, top
        for group in row:
            x, lowest = left + PADDING, top
            for column in group.columns:
                width, y = max(nodes[one]["size"][0] for one in column), top + HEADER
                for one in column:
                    places["nodes"][one] = [x, y, width]
                    y += room(nodes[one]) + GAP_Y
                x, lowest = x + width + GAP_X, max(lowest, y - GAP_Y)
            places["groups"][group.title] = [left, top, x - GAP_X + PADDING, lowest + PADDING]
            left, bottom = x - GAP_X + PADDING + GROUP_GAP, max(bottom, lowest + PADDING)
        top = bottom + GROUP_GAP
    return places


def place_inside(definition: dict, one: Fold, found: dict | None) -> None:
    """The nodes of a subgraph, between its two borders."""
    nodes = {str(node["id"]): node for node in definition["nodes"]}
    borders = {"in": definition["inputNode"], "out": definition["outputNode"]}
    if found is None or set(found["nodes"]) != {*nodes, *borders}:
        found = in_rows(nodes, [[Group("", one.columns)]])
        left, top, right, _ = found["groups"][""]
        found["nodes"] |= {"in": [left - 260, top + HEADER, 0], "out": [right + 120, top + HEADER, 0]}
    set_places(nodes, found, one.title)
    for side, border in borders.items():
        border["bounding"][:2] = found["nodes"][side][:2]
    for side, slots in (("in", definition["inputs"]), ("out", definition["outputs"])):
        x, y = borders[side]["bounding"][:2]
        for slot in slots:
            slot["pos"] = [x + slot["pos"][0], y + slot["pos"][1]]


def bend(workflow: dict, template: Template, places: list) -> None:
    """Leads links through the template's bends: ComfyUI's reroutes, which links from one output share."""
    reroutes, parents = [], {}
    for number, (one, at) in enumerate(zip(template.bends, places), 1):
        node, slot = map(int, one.of.split("."))
        through = [link[0] for link in workflow["links"] if link[1:3] == [node, slot] and str(link[3]) in one.to]
        before = {parents.get(link) for link in through}
        if not through or len(before) > 1:
            raise ValueError(
                f"{template.source}: bend {number} of {one.of} leads {len(through)} links that come different ways"
            )
        reroutes.append({"id": number, "pos": at, "linkIds": sorted(through)})
        if (parent := before.pop()) is not None:
            reroutes[-1]["parentId"] = parent
        parents |= dict.fromkeys(through, number)
    if reroutes:
        workflow["extra"] |= {
            "reroutes": reroutes,
            "linkExtensions": [{"id": link, "parentId": parent} for link, parent in sorted(parents.items())],
        }
