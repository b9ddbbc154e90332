"""A shipped template as it lies on disk: what every release of ComfyUI's page reads, and none writes differently.

The pages number links in their own ways, newer ones add what older ones do not know and make up an id of the graph.
"""
from __future__ import annotations

import json

from .template import App

OUTPUTS_OF_NEWER_HOSTS = ("PreviewImage", "PreviewAny")  # none of the templates uses them
# values go by their place, and newer hosts have put widgets in between: as many as stand in one place on all of them; what comes
# after is the node's own default
WIDGETS_OF_ALL_HOSTS = {"TrainLoraNode": 11}
LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")  # of a link in a subgraph
OF_NEWER_PAGES = ("widgets_values_named",)  # beside widgets_values, which all of them read


def same_everywhere(workflow: dict, graph_id: str) -> None:
    """Takes what only some pages write out of a graph that a page has serialised, in place."""
    workflow["id"] = graph_id
    for node in workflow["nodes"]:
        for key in OF_NEWER_PAGES:
            node.pop(key, None)
        if node["type"] in OUTPUTS_OF_NEWER_HOSTS:
            node["outputs"] = []
        if node["type"] in WIDGETS_OF_ALL_HOSTS:
            node["widgets_values"] = node["widgets_values"][:WIDGETS_OF_ALL_HOSTS[node["type"]]]
    renumber_links(workflow)
    extra = workflow.setdefault("extra", {})
    for key in ("workflowRendererVersion", "frontendVersion", "ds"):
        extra.pop(key, None)


def make_app(workflow: dict, app: App) -> None:
    """What newer pages open as an app, its widgets called as it says; pages without apps show the same names in the graph."""
    sockets = {(node["id"], entry["name"]): entry for node in workflow["nodes"] for entry in node.get("inputs", [])}
    for node, widget, *label in app.inputs:
        entry = sockets[int(node), widget]
        if label:
            entry["label"] = label[0]
    workflow["extra"] |= {"linearMode": True, "linearData": {
        "inputs": [[int(node), widget] for node, widget, *_ in app.inputs], "outputs": list(map(int, app.outputs))}}


def written(workflow: dict) -> str:
    return json.dumps(workflow, indent=1, ensure_ascii=False) + "\n"


def renumber_links(workflow: dict) -> None:
    """Links count from 1, in the order of the inputs that they lead to, and have the type of the output that they come from.
    Those of subgraphs go on counting, and their links become objects, as pages write them there."""
    last = 0
    for graph in (workflow, *workflow.get("definitions", {}).get("subgraphs", [])):
        types = {(node["id"], slot): output["type"] for node in graph["nodes"]
                 for slot, output in enumerate(node.get("outputs", []))}
        links = sorted(graph["links"], key=lambda link: (int(link[3]), link[4]))
        number = {link[0]: new for new, link in enumerate(links, last + 1)}
        last += len(links)
        graph["links"] = [[number[link[0]], *link[1:5], types.get((link[1], link[2]), link[5])] for link in links]
        for node in graph["nodes"]:
            for output in node.get("outputs", []):
                output["links"] = sorted(number[link] for link in output["links"]) if output.get("links") else output.get("links")
            for entry in node.get("inputs", []):
                entry["link"] = number[entry["link"]] if entry.get("link") is not None else None
        for border in (*graph.get("inputs", []), *graph.get("outputs", [])):
            border["linkIds"] = sorted(number[link] for link in border["linkIds"])
        if graph is not workflow:
            graph["state"] |= {"lastNodeId": max(node["id"] for node in graph["nodes"]), "lastLinkId": last}
            graph["links"] = [dict(zip(LINK, link)) for link in graph["links"]]
    workflow["last_link_id"] = last
