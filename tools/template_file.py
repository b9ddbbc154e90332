"""A shipped template as it lies on disk: what every release of ComfyUI's page reads, and none writes differently.

The pages number links in their own ways, newer ones add what older ones do not know and make up an id of the graph.
"""
from __future__ import annotations

import json

# the note at the top left, beside and below the page's bars; the offset is in units of the graph
VIEW_AT_FIRST = {"scale": 0.7, "offset": [107, 214]}
OUTPUTS_OF_NEWER_HOSTS = ("PreviewImage",)  # none of the templates uses them
FONT_SIZE = 24  # which newer pages leave out
OF_NEWER_PAGES = ("widgets_values_named",)  # beside widgets_values, which all of them read


def text(workflow: dict, graph_id: str) -> str:
    """The file of a graph that a page has serialised."""
    workflow["id"] = graph_id
    for node in workflow["nodes"]:
        for key in OF_NEWER_PAGES:
            node.pop(key, None)
        if node["type"] in OUTPUTS_OF_NEWER_HOSTS:
            node["outputs"] = []
    for group in workflow["groups"]:
        group |= {"font_size": FONT_SIZE, "flags": group.pop("flags", {})}
    renumber_links(workflow)
    extra = workflow.setdefault("extra", {})
    extra["ds"] = VIEW_AT_FIRST
    for key in ("workflowRendererVersion", "frontendVersion"):
        extra.pop(key, None)
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


def renumber_links(workflow: dict) -> None:
    """Links count from 1, in the order of the inputs that they lead to, and have the type of the output that they come from."""
    links = sorted(workflow["links"], key=lambda link: (int(link[3]), link[4]))
    number = {link[0]: new for new, link in enumerate(links, 1)}
    types = {(node["id"], slot): output["type"] for node in workflow["nodes"]
             for slot, output in enumerate(node.get("outputs", []))}
    workflow["links"] = [[number[link[0]], *link[1:5], types[link[1], link[2]]] for link in links]
    workflow["last_link_id"] = len(links)
    for node in workflow["nodes"]:
        for output in node.get("outputs", []):
            output["links"] = sorted(number[link] for link in output["links"]) if output.get("links") else output.get("links")
        for entry in node.get("inputs", []):
            entry["link"] = number[entry["link"]] if entry.get("link") is not None else None
