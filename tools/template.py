"""What a shipped template is made of, besides its graph: a note, its groups, and what is folded into a subgraph."""
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
class Fold:
    """Nodes that the page shows as one: a subgraph, opened by a double click.

    node: its own id. inputs, outputs: its label -> the sockets inside, "17.model" (by name) or "23.0" (by place); an input
    that is a widget inside is a widget outside. columns: how its nodes are arranged first. places: where what was found for
    them is kept, if another fold has the title.
    """

    node: str
    title: str
    inputs: dict[str, list[str]]
    outputs: dict[str, str]
    columns: list[list[str]]
    places: str = ""

    @property
    def nodes(self) -> list[str]:
        return [node for column in self.columns for node in column]


@dataclass(frozen=True)
class Bend:
    """A point that links of one output pass through. of: "1.2", a node and the place of its output; to: nodes that they lead to."""

    of: str
    to: tuple[str, ...]


@dataclass(frozen=True)
class App:
    """What newer pages show of a template in their app mode. inputs: (node, widget, what it is called there); outputs: nodes.

    A block's widget has its name already: (node, widget).
    """

    inputs: tuple[tuple[str, ...], ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Template:
    """source: file in workflows/api. name: as the template browser shows it. rows: groups side by side, row by row, as they
    are before tools/arrange_templates.py has found better places. picture: the nodes that the thumbnail shows, column by
    column. sizes: least width and height of single nodes, by id."""

    source: str
    name: str
    note: str
    rows: list[list[Group]]
    picture: list[list[str]]
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    folds: tuple[Fold, ...] = ()
    bends: tuple[Bend, ...] = ()
    app: App | None = None
