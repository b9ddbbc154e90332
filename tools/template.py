"""What a shipped template is made of, besides its graph: a note, and where each node stands on the page."""
from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Group:
    """A titled frame around columns of node ids; the id "note" is the note."""

    title: str
    columns: list[list[str]]


@dataclass(frozen=True)
class Template:
    """source: file in workflows/api. name: as the template browser shows it. rows: groups side by side, row by row.
    picture: the nodes that the thumbnail shows, column by column. sizes: least width and height of single nodes, by id."""

    source: str
    name: str
    note: str
    rows: list[list[Group]]
    picture: list[list[str]]
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
