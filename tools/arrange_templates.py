"""Finds places for the nodes of shipped templates, so that links hardly cross and run over no node -> template_places.json.

    python -m tools.arrange_templates [name] [--steps N] [--seed N] [--warm]      (inside develop.py's environment)

Some minutes for each. It starts from the rows of the template, with --warm from the places of last time. Afterwards
tools/make_templates.py writes the templates.
"""

from __future__ import annotations

import argparse
import json

from . import browser
from .blocks import BLOCKS
from .make_blocks import path
from .make_templates import WORKFLOWS
from .template import Fold, Template
from .template_links import BORDER_IN, BORDER_OUT, FIRST_SLOT, SLOT, input_height, links_of
from .template_places import FILE, GROUP_GAP, key, known, of_fold, room
from .templates import TEMPLATES

ARRANGE = FILE.with_name("template_arrange.js")
BORDER_SLOT = 20  # from a border's edges to the first of its sockets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", help="one file of workflows/api, without .json, or a block's name (default: all)")
    parser.add_argument("--steps", type=int, default=1_000_000, help="what is tried; more takes longer and is better")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--warm", action="store_true", help="start from the places of last time")
    chosen = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=browser.find(), args=["--no-sandbox", "--disable-gpu"]).new_page()
        templates = [each for each in TEMPLATES if chosen.source in (None, each.source)]
        blocks = {of_fold(block.fold) for block in BLOCKS}  # arranged as themselves, also where a template holds one
        wanted = [(template, *each) for template in templates for each in problems(template).items() if each[0] not in blocks]
        wanted += [(None, *each) for each in problems_of_blocks(chosen.source).items()]
        for template, name, problem in wanted:
            places = known()
            warm = chosen.warm and name in places
            if warm:
                problem["start"] |= {one: at[:2] for one, at in places[name]["nodes"].items()}
            found = page.evaluate(
                ARRANGE.read_text(encoding="utf-8"),
                problem | {"steps": chosen.steps, "seed": chosen.seed, "hot": 8 if warm else 60},
            )
            print(f"{name}: {found['crossings']} crossings of {len(problem['links'])} links, {found['over']:.1f} over nodes")
            FILE.write_text(written(places | {name: entry(template, problem, found)}), encoding="utf-8")


def problems(template: Template) -> dict[str, dict]:
    """What is to be arranged: the template's graph, and the inside of each of its folds."""
    workflow = json.loads((WORKFLOWS / f"{template.name}.json").read_text(encoding="utf-8"))
    groups = [[one for column in group.columns for one in column] for row in template.rows for group in row]
    found = {
        template.source: {
            **_problem(workflow),
            "groups": groups,
            "bends": [{"of": bend.of, "to": list(bend.to), "at": [1500, 1500]} for bend in template.bends],
        }
    }
    for definition, fold in zip(workflow.get("definitions", {}).get("subgraphs", []), template.folds):
        found[of_fold(fold)] = inside(definition, fold)
    return found


def inside(definition: dict, fold: Fold) -> dict:
    """What is to be arranged within a fold, between its two borders."""
    problem = _problem(definition)
    problem["start"] |= {"in": [100, 200], "out": [2600, 300]}
    for side, border in (("in", definition["inputNode"]), ("out", definition["outputNode"])):
        problem["nodes"][side] = {"width": border["bounding"][2] - BORDER_SLOT, "room": border["bounding"][3]}
    return {**problem, "groups": [["in"], fold.nodes, ["out"]], "bends": []}


def problems_of_blocks(asked: str | None) -> dict[str, dict]:
    """The inside of every shipped block, or of the one that is asked for."""
    found = {}
    for block in (each for each in BLOCKS if asked in (None, each.name)):
        (definition,) = json.loads(path(block).read_text(encoding="utf-8"))["definitions"]["subgraphs"]
        found[of_fold(block.fold)] = inside(definition, block.fold)
    return found


def _problem(graph: dict) -> dict:
    nodes = {node["id"]: node for node in graph["nodes"]}
    links = []
    for _, origin, out, target, into in links_of(graph):
        start = ("in", BORDER_SLOT + SLOT * out) if origin == BORDER_IN else (key(nodes[origin]), FIRST_SLOT + SLOT * out)
        end = (
            ("out", BORDER_SLOT + SLOT * into)
            if target == BORDER_OUT
            else (key(nodes[target]), input_height(nodes[target], into))
        )
        links.append({"from": start[0], "fromY": start[1], "to": end[0], "toY": end[1], "output": f"{origin}.{out}"})
    return {
        "nodes": {key(node): {"width": node["size"][0], "room": room(node)} for node in graph["nodes"]},
        "links": links,
        "start": {key(node): node["pos"] for node in graph["nodes"]},
    }


def entry(template: Template | None, problem: dict, found: dict) -> dict:
    """What template_places.json keeps of an arrangement."""
    nodes = {one: [*at, problem["nodes"][one]["width"]] for one, at in found["nodes"].items()}
    if template is None or "out" in nodes:
        return {"nodes": nodes}
    titles = [group.title for row in template.rows for group in row]
    close_up(nodes, found)
    return {"nodes": nodes, "groups": dict(zip(titles, found["groups"])), "bends": found["bends"]}


def close_up(nodes: dict[str, list], found: dict) -> None:
    """Moves everything but the note, which no link holds, up to it where it stands far off to the right."""
    note, *others = found["groups"]
    x = note[2] + GROUP_GAP - min(box[0] for box in others)
    y = note[1] - min(box[1] for box in others)
    if x >= 0:
        return
    for box in others:
        box[:] = [box[0] + x, box[1] + y, box[2] + x, box[3] + y]
    for one, at in nodes.items():
        if one != "note":
            at[:2] = [at[0] + x, at[1] + y]
    found["bends"] = [[at[0] + x, at[1] + y] for at in found["bends"]]


def written(places: dict) -> str:
    """One line for each node, so that a change can be read."""
    lines = []
    for name, one in sorted(places.items()):
        parts = [
            f"  {json.dumps(part)}: {{\n"
            + ",\n".join(f"   {json.dumps(k, ensure_ascii=False)}: {json.dumps(v)}" for k, v in one[part].items())
            + "\n  }"
            for part in ("nodes", "groups")
            if part in one
        ]
        if one.get("bends"):
            parts.append(f'  "bends": {json.dumps(one["bends"])}')
        lines.append(f" {json.dumps(name)}: {{\n" + ",\n".join(parts) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
