"""The sentences that the pack's server says in English, and which of them web/chinese_errors.js has in Chinese.

A sentence is read from the source, with its gaps numbered: f"there is no run '{run}'" is "there is no run '{1}'". Sentences are
what is raised, and what the modules of ANSWERS return or hold in a table.
"""

from __future__ import annotations

import ast
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path

from .host import ROOT

PLACE = ROOT / "web" / "chinese_errors.js"
FOLDERS = ("nodes", "trainers", "rewards", "toy")
ANSWERS = ("trainers/run/summary.py", "trainers/run/notices.py", "trainers/run/held_out.py")
GAP, HAN, LETTER = re.compile(r"\{\d+\}"), re.compile(r"[\u4e00-\u9fff]"), re.compile("[a-z]")
HOLE = "\0"


def sentences() -> dict[str, str]:
    """sentence -> the file that says it."""
    found: dict[str, str] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for words in said(ast.parse(path.read_text(encoding="utf-8")), answers=name in ANSWERS):
                if LETTER.search(GAP.sub("", words)):
                    found.setdefault(words, name)
    return found


def said(tree: ast.AST, answers: bool = False) -> Iterator[str]:
    """The sentences of a module. answers: what is returned, or a table's value, is one, too."""
    for node in ast.walk(tree):
        for each in _raised(node) + (_answered(node) if answers else []):
            if (words := _words(each)).replace(HOLE, "").strip():
                numbers = itertools.count(1)
                yield re.sub(HOLE, lambda _: f"{{{next(numbers)}}}", words)


def _raised(node: ast.AST) -> list[ast.expr]:
    return node.exc.args[:1] if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) else []


def _answered(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Dict):
        return node.values
    value = node.value if isinstance(node, ast.Return) else None
    return list(value.elts) if isinstance(value, ast.Tuple) else [value] if value is not None else []


def _words(node: ast.AST | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_words, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _words(node.left) + _words(node.right)
    return HOLE


def chinese(place: Path = PLACE) -> dict[str, str]:
    """What the page knows: an object of JSON behind "export const"."""
    text = place.read_text(encoding="utf-8")
    return json.loads(text[text.index("= {") + 2 : text.rindex("}") + 1])


def wrong(known: dict[str, str], there: dict[str, str]) -> list[str]:
    """Sentences that nothing says any more, with gaps that are not there, or that are not Chinese."""
    return (
        [f"nothing says: {words}" for words in known if words not in there]
        + [f"other gaps: {words}" for words, text in known.items() if not set(GAP.findall(text)) <= set(GAP.findall(words))]
        + [f"not Chinese: {words}" for words, text in known.items() if not HAN.search(text)]
    )


def report(every: bool = False) -> list[str]:
    """For develop.py docs: how many have no Chinese yet, by folder; every: the sentences, too."""
    there, known = sentences(), chinese()
    lacking = [(name, words) for words, name in there.items() if words not in known]
    folders: dict[str, int] = {}
    for name, _ in lacking:
        folder = "/".join(name.split("/")[:-1])
        folders[folder] = folders.get(folder, 0) + 1
    counts = ", ".join(f"{folder} {count}" for folder, count in sorted(folders.items()))
    lines = [f"Sentences of the server without Chinese (web/chinese_errors.js): {len(lacking)} of {len(there)}: {counts}."]
    return lines + ([f"  {name}: {words}" for name, words in lacking] if every else ["  --errors lists them."])
