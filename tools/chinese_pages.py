"""The help pages in Chinese, web/docs/<NodeId>/zh.md: ComfyUI shows one where its page is Chinese, and the English one else.

They are written by hand like the English ones; python develop.py docs puts the settings in, from locales/zh/nodeDefs.json.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from .chinese import texts
from .make_docs import DOCS, SECTION, default_of, inputs_of
from .pack import module

SETTINGS = re.compile(r"(?<=^## 设置\n).*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
NONE = "没有设置。"
ALIKE = {"headings": r"^#+ ", "blocks": r"^```", "rows of tables": r"^\|", "items of lists": r"^- "}  # as many of them
THE_SAME = {"links": r"\]\(([^)]+)\)", "names": r"(?<!`)`([^`\n]+)`(?!`)", "papers": r"arXiv:[\d.]+"}


def main() -> None:
    known = texts()
    for node_id, node in module("nodes", host=True).NODE_CLASS_MAPPINGS.items():
        page = place(node_id)
        if page.is_file() and (new := refreshed(old := page.read_text(encoding="utf-8"), node, known[node_id])) != old:
            page.write_text(new, encoding="utf-8")
            print(f"{node_id}: refreshed, in Chinese")


def place(node_id: str) -> Path:
    return DOCS / node_id / "zh.md"


def refreshed(page: str, node: type, known: Mapping) -> str:
    """The page with the node's settings as they are now. known: the node's entry in nodeDefs.json."""
    if not SETTINGS.search(page):
        raise ValueError("the page has no line '## 设置'")
    return SETTINGS.sub(lambda _: settings(node, known.get("inputs", {})), page).rstrip() + "\n"


def settings(node, said: Mapping[str, Mapping[str, str]]) -> str:
    lines = []
    for name, spec in inputs_of(node):
        default, words = default_of(spec), said.get(name, {})
        shown = f"（{default}）" if default else ""
        lines.append(f"- **{words.get('name', name)}**{shown}：{words.get('tooltip', '')}")
    return "\n" + "\n".join(lines or [NONE]) + "\n\n"


def differences(english: str, chinese: str) -> list[str]:
    """What one page has and the other has not, the settings left out."""
    first, second = SECTION.sub("", english), SETTINGS.sub("", chinese)
    found = [
        what
        for what, form in ALIKE.items()
        if len(re.findall(form, first, re.MULTILINE)) != len(re.findall(form, second, re.MULTILINE))
    ]
    return found + [
        what for what, form in THE_SAME.items() if Counter(re.findall(form, first)) != Counter(re.findall(form, second))
    ]
