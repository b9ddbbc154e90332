"""Refreshes the settings in the help pages web/docs/<NodeId>.md from the nodes' own tooltips.

    python develop.py docs

The rest of a page is written by hand. A node without a page gets none: write its title, picture, what it does and when
to use it, then a line "## Settings", and run this again.
"""
from __future__ import annotations

import re

from .host import ROOT
from .pack import module

DOCS = ROOT / "web" / "docs"
SECTION = re.compile(r"(?<=^## Settings\n).*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
LONGEST_DEFAULT = 40


def main() -> None:
    for node_id, node in module("nodes", host=True).NODE_CLASS_MAPPINGS.items():
        page = DOCS / f"{node_id}.md"
        if not page.is_file():
            print(f"{node_id}: no page" if not internal(node) else f"{node_id}: internal, needs none")
            continue
        old = page.read_text(encoding="utf-8")
        if (new := refreshed(old, node)) != old:
            page.write_text(new, encoding="utf-8")
            print(f"{node_id}: refreshed")


def internal(node) -> bool:
    return node.CATEGORY.endswith("internal")


def refreshed(page: str, node) -> str:
    """The page with the node's settings as they are now."""
    if not SECTION.search(page):
        raise ValueError("the page has no line '## Settings'")
    return SECTION.sub(lambda _: settings(node), page).rstrip() + "\n"


def settings(node) -> str:
    lines = [line(name, spec) for name, spec in inputs_of(node)]
    return "\n" + "\n".join(lines or ["It has none."]) + "\n\n"


def inputs_of(node) -> list[tuple[str, tuple]]:
    inputs = node.INPUT_TYPES()
    return [each for kind in ("required", "optional") for each in inputs.get(kind, {}).items()]


def line(name: str, spec: tuple) -> str:
    options, default = spec[1] if len(spec) > 1 else {}, default_of(spec)
    shown = f" ({default})" if default else ""
    return f"- **{name}**{shown}: {options.get('tooltip', '')}"


def default_of(spec: tuple) -> str:
    """As a page shows it; "" where an input has none, or a long one."""
    kind, options = spec[0], spec[1] if len(spec) > 1 else {}
    default = options.get("default", kind[0] if isinstance(kind, (list, tuple)) else None)
    return "" if default in (None, "") or len(str(default)) > LONGEST_DEFAULT else plain(default)


def plain(default) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default).replace("\n", " ")


if __name__ == "__main__":
    main()
