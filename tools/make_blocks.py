"""Makes the shipped blocks: workflows/api/*.json and tools/blocks.py -> subgraphs/*.json, which ComfyUI offers in its node library.

    python -m tools.make_blocks [name]      (inside develop.py's environment)

As with the templates, the real page of a real ComfyUI writes the nodes, and tools/template_fold.py folds them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from . import template_file, template_fold, template_places
from .block import Block, graph
from .blocks import BLOCKS
from .host import ROOT, Host
from .make_templates import flat, opened

SUBGRAPHS = ROOT / "subgraphs"
CATEGORY = "PostTrain"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="one block's name (default: all)")
    chosen = parser.parse_args()
    from playwright.sync_api import sync_playwright

    SUBGRAPHS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright, Host(Path(temporary)) as host:
        page = opened(playwright, host)
        offered = host.object_info()
        for block in (each for each in BLOCKS if chosen.name in (None, each.name)):
            file, text = path(block), convert(page, block, offered)
            same = file.is_file() and file.read_text(encoding="utf-8") == text
            file.write_text(text, encoding="utf-8")
            print(f"{block.name}: {'unchanged' if same else 'written'}", flush=True)


def path(block: Block) -> Path:
    return SUBGRAPHS / f"{block.name}.json"


def convert(page, block: Block, offered: dict[str, dict]) -> str:
    """The block's file: one node and what is in it. offered: the server's object_info."""
    api = graph(block, offered)
    return finished(flat(page, api, block.name, "", {}), block, api)


def finished(workflow: dict, block: Block, api: dict) -> str:
    """The file of a block, from the page's flat graph."""
    workflow["nodes"] = [node for node in workflow["nodes"] if node["type"] != "MarkdownNote"]
    template_file.same_everywhere(workflow, "")
    template_fold.fold(workflow, block.fold, api, f"block {block.name}")
    template_file.renumber_links(workflow)
    (definition,) = workflow["definitions"]["subgraphs"]
    definition |= {"category": CATEGORY, "description": f"{block.english} {block.chinese}"}
    template_places.place_inside(definition, block.fold, template_places.known().get(template_places.of_fold(block.fold)))
    kept = {key: workflow[key] for key in ("nodes", "last_node_id", "last_link_id", "links", "version", "definitions")}
    extra = {"BlueprintDescription": definition["description"], "BlueprintSearchAliases": list(block.names)}
    return template_file.written({"revision": 0, **kept, "extra": extra})


if __name__ == "__main__":
    main()
