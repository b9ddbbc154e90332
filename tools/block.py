"""What a shipped block is made of: nodes of the shipped workflows as one node, for ComfyUI's node library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .template import Fold
from .training import load_workflow


@dataclass(frozen=True)
class Block:
    """fold: the node, and which of the source's nodes it holds; its title is the block's name. source: file in workflows/api.
    others: id -> (file in workflows/api, id there), nodes that take the place of the source's, or are added. new: id -> class of a
    node that is in none of the files. wires: "8.reward" ->
    (node, place of the output). values: "4.width" -> value; every other widget of the source's own PT nodes is at its default,
    which is the recommended number. english, chinese: what it does. names: more words that it is found by."""

    source: str
    fold: Fold
    english: str
    chinese: str
    names: tuple[str, ...]
    others: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    wires: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    values: Mapping[str, object] = field(default_factory=dict)
    new: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.fold.title


def graph(block: Block, offered: dict[str, dict]) -> dict:
    """The block's nodes in API format; what they take from outside is open. offered: the server's object_info."""
    whole = load_workflow(block.source)
    taken = {node: load_workflow(source)[there] for node, (source, there) in block.others.items()}
    taken |= {node: {"class_type": kind, "inputs": {}} for node, kind in block.new.items()}
    found = {node: taken.get(node) or whole[node] for node in block.fold.nodes}
    for node, content in found.items():
        links = {name: value for name, value in content["inputs"].items() if isinstance(value, list)}
        links |= {place.split(".")[1]: list(wire) for place, wire in block.wires.items() if place.split(".")[0] == node}
        typed = {name: value for name, value in content["inputs"].items() if name not in links}
        if content["class_type"].startswith("PT") and node not in kept(block):
            typed = defaults(offered[content["class_type"]]["input"])
        content["inputs"] = typed | {name: link for name, link in links.items() if link[0] in found}
    for place, value in block.values.items():
        node, name = place.split(".")
        if name not in found[node]["inputs"]:
            raise ValueError(f"{block.name}: {found[node]['class_type']} has no widget {name}")
        found[node]["inputs"][name] = value
    return found


def kept(block: Block) -> set[str]:
    """Nodes whose values are those of the workflow that they are from: prompts and rewards of a user's own."""
    return {node for node, (source, _) in block.others.items() if source.startswith("own_")}


def defaults(inputs: dict[str, dict]) -> dict:
    """The value of every widget as a new node shows it. inputs: a node's, from object_info."""
    found = {}
    for name, (kind, *options) in {**inputs.get("required", {}), **inputs.get("optional", {})}.items():
        rest = options[0] if options else {}
        menu = kind if isinstance(kind, list) else rest.get("options") if kind == "COMBO" else None
        if menu or kind in ("INT", "FLOAT", "STRING", "BOOLEAN"):
            found[name] = rest.get("default", menu[0] if menu else None)
    return found
