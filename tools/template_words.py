"""What the templates and blocks say beside their nodes, and its Chinese, which the page knows from web/chinese_templates.json.

A text is a line of a note, a group's title, or a title that a node has been given.
"""

from __future__ import annotations

import json

from .host import ROOT

PLACE = ROOT / "web" / "chinese_templates.json"
NOTE = "MarkdownNote"


def said() -> dict[str, str]:
    """text -> a file that says it."""
    found: dict[str, str] = {}
    for folder in ("workflows", "subgraphs"):
        for path in sorted((ROOT / folder).glob("*.json")):
            whole = json.loads(path.read_text(encoding="utf-8"))
            for graph in (whole, *whole.get("definitions", {}).get("subgraphs", ())):
                for text in _texts(graph):
                    found.setdefault(text, path.name)
    return found


def _texts(graph: dict) -> list[str]:
    notes = [line for node in graph["nodes"] if node["type"] == NOTE for line in node["widgets_values"][0].split("\n")]
    titles = [each["title"] for each in (*graph["nodes"], *graph.get("groups", ())) if each.get("title")]
    return [text for text in (*notes, *titles) if text.strip()]


def chinese() -> dict[str, str]:
    return json.loads(PLACE.read_text(encoding="utf-8"))


def lacking() -> list[str]:
    """For develop.py docs."""
    known = chinese()
    return [f"{file}: {text}" for text, file in said().items() if text not in known]
