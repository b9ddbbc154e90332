"""Recommended numbers, and those in use, as a person reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .table import PARTS, Row, sources

# fields that nodes call otherwise
NAMES = {
    "optimizer.updates": "updates per rollout",
    "optimizer.average": "averaging",
    "optimizer.epsilon": "Adam epsilon",
    "pairs.pairs": "pairs an update",
}


def name_of(part: str, field: str) -> str:
    return NAMES.get(f"{part}.{field}", field.replace("_", " "))


def plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def source_of(source: str) -> str:
    """A source with its repository and commit in the place of its key; of a guess, the source that it was taken from."""

    def named(found: re.Match) -> str:
        repository, commit = sources()[found[2]]
        return f"{found[1]}{repository} @ {commit} "

    return re.sub(rf"(^|\(|in )({'|'.join(sources())}) ", named, source)


def as_table(found: Row) -> str:
    """Tab-separated: number, value, source."""
    lines = [
        f"{name_of(part, field)}\t{plain(number.value)}\t{source_of(number.source)}"
        for part in PARTS
        for field, number in found.numbers.get(part, {}).items()
    ]
    return "\n".join(["number\trecommended\tsource", *lines])


def in_use(used: Mapping) -> str:
    """One sentence on what a train step used, see ``engine.in_use``; a star marks what was left to the recommendation."""
    if not used:
        return ""
    chosen = set(used["recommended"])
    parts = [
        f"{name_of(*name.split('.', 1))} {plain(value)}{'*' if name in chosen else ''}"
        for name, value in used["numbers"].items()
        if value != ""
    ]
    stars = f" (* recommended for {used['method']} on {used['family']})" if chosen else ""
    note = f" {used['note']}." if used.get("note") else ""
    return f"Numbers in use: {', '.join(parts)}{stars}.{note}"
