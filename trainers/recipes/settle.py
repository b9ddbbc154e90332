"""Puts the recommended numbers into settings that were left open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from .table import row

OPEN = -1  # in the widget of a number: the recommended one, please
RECOMMENDED = "recommended"  # the same in a menu


def variant_of(settings: object) -> str:
    """A trainer's settings -> their name in the table; a trust region with numbers of its own is a method of its own there."""
    name, trust = type(settings).__name__, getattr(settings, "trust", "")
    variant = f"{name}, {trust}"
    return variant if row(variant, "SD3.5").numbers else name


def settled(settings: Any, names: Iterable[str], values: Mapping[str, float | int | str]) -> Any:
    """The settings, a dataclass, with those of the values that are named; where there is none, what they have stays."""
    kinds = {field.name: str(field.type) for field in fields(settings)}
    known = {name: values[name] for name in names if name in values}
    # the table writes whole numbers without a point
    typed = {name: float(value) if kinds[name].startswith("float") else value for name, value in known.items()}
    return replace(settings, **typed)
