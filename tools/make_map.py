"""Writes the list of modules in docs/architecture.md from the modules' own first lines.

    python -m tools.make_map
"""
from __future__ import annotations

import ast
import re

from .host import ROOT
from .tree import files

PARTS = ("nodes", "trainers", "rewards", "toy", "ray_run")
MAP = ROOT / "docs" / "architecture.md"
SECTION = re.compile(r"(?<=^## Every module\n).*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def main() -> None:
    MAP.write_text(refreshed(MAP.read_text(encoding="utf-8")), encoding="utf-8")


def refreshed(page: str) -> str:
    """The page with the list of modules as it is now."""
    return SECTION.sub(lambda _: "\n" + "\n".join(rooms()) + "\n", page)


def rooms() -> list[str]:
    """A heading for each folder with what its __init__ says of it, and a line for each of its modules."""
    folders: dict[str, list[str]] = {}
    for name in files():
        if name.endswith(".py") and name.split("/")[0] in PARTS:
            folders.setdefault(name.rpartition("/")[0], []).append(name)
    lines = []
    for folder in sorted(folders, key=lambda each: (PARTS.index(each.split("/")[0]), each)):
        lines += [f"### {folder}/", "", first_line(f"{folder}/__init__.py"), ""]
        lines += [f"- `{name.rpartition('/')[2]}`: {first_line(name)}" for name in folders[folder]
                  if not name.endswith("__init__.py")] + [""]
    return lines


def first_line(name: str) -> str:
    """The first sentence or line of a module's docstring, which every module has."""
    text = ast.get_docstring(ast.parse((ROOT / name).read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


if __name__ == "__main__":
    main()
