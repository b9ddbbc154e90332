"""What a benchmark writes into a page of docs/: between two marks, the rest of the page is a person's."""

from __future__ import annotations

from pathlib import Path


def between(page: Path, start: str, end: str) -> str:
    """What stands there."""
    return page.read_text(encoding="utf-8").split(start)[1].split(end)[0]


def put_between(page: Path, start: str, end: str, text: str) -> None:
    """Puts ``text`` there instead."""
    head, rest = page.read_text(encoding="utf-8").split(start)
    page.write_text(f"{head}{start}\n{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")
