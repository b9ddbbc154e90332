"""The Chinese texts of the nodes: what is still missing, and what is wrong. Missing ones are filled in by those who know them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from .host import ROOT
from .make_docs import internal

PLACE = ROOT / "locales" / "zh" / "nodeDefs.json"
HAN = re.compile(r"[\u4e00-\u9fff]")


def texts() -> dict[str, dict]:
    return json.loads(PLACE.read_text(encoding="utf-8"))


def missing(nodes: Mapping[str, type], known: Mapping[str, dict]) -> list[str]:
    """What has no Chinese yet, a line each: a whole node, or an input or output of one."""
    found = []
    for node_id, node in nodes.items():
        if internal(node):
            continue
        if node_id not in known:
            found.append(f"{node_id}: everything")
            continue
        entry = known[node_id]
        found += [f"{node_id}: {key}" for key in ("display_name", "description") if key not in entry]
        for part, keys in parts(node).items():
            there = entry.get(part, {})
            found += [f"{node_id}: {part}.{key}" for key in keys if key not in there]
            if part == "inputs":
                found += [
                    f"{node_id}: inputs.{key}.tooltip" for key, words in there.items() if key in keys and "tooltip" not in words
                ]
    return found


def wrong(nodes: Mapping[str, type], known: Mapping[str, dict]) -> list[str]:
    """Texts of what does not exist any more, and texts that are not Chinese."""
    placed = {node_id: node for node_id, node in nodes.items() if not internal(node)}
    found = [f"{node_id}: there is no such node" for node_id in known if node_id not in placed]
    for node_id in [each for each in known if each in placed]:
        entry, there = known[node_id], parts(placed[node_id])
        found += [
            f"{node_id}: there is no {part}.{key}"
            for part, keys in there.items()
            for key in entry.get(part, {})
            if key not in keys
        ]
        words = {"description": entry.get("description")}
        words |= {f"inputs.{key}.tooltip": each.get("tooltip") for key, each in entry.get("inputs", {}).items()}
        found += [
            f"{node_id}: {key} is not Chinese" for key, text in words.items() if text is not None and not HAN.search(text)
        ]
    return found


def parts(node: type) -> dict[str, list[str]]:
    inputs = node.INPUT_TYPES()
    return {
        "inputs": [*inputs.get("required", {}), *inputs.get("optional", {})],
        "outputs": [str(number) for number in range(len(node.RETURN_TYPES))],
    }
