"""What a shipped template is made of, besides its graph: a note, and where each node stands on the page."""
from __future__ import annotations

from dataclasses import dataclass, field

# of every template that trains: its numbers are typed, and whose they are
DEMO_NUMBERS = ("The numbers here are the demo's own, for its tiny model. For yours, type -1 in Create Policy, Sampling Settings and "
                "the trainer, *recommended* in their menus, and wire *trainer* into **Create Policy**: it shows what your model is "
                "recommended to be trained with.")


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
