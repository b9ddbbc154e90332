"""Reads numbers.json: method x family of models -> numbers, each with its source.

A block of numbers is a part: "lora" (the bank's Recipe), "optimizer", "sampling" and "method" have the fields of those
settings' classes; "pairs" is the number of pairs (or thumbs) of an update. A number is [value, source], or the value alone
with the row's "source". A source is a key of "sources" and a place in that repository, or begins with "guess". "as" names rows
whose numbers are taken where the row has none of its own, later ones over earlier ones, all parts of them or those after the
colon; what comes from another family or method is a guess, and says so. A row of one entry, "why not", says why it is empty;
under "any family" it stands for all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ...rewards.base.words import brief

PARTS = ("lora", "optimizer", "sampling", "method", "pairs")
PAIRS = "pairs"


class Number(NamedTuple):
    """value: a number, or a word of a menu; source: where it is from, or "guess" and why."""

    value: float | int | str
    source: str

    @property
    def guess(self) -> bool:
        return self.source.startswith("guess")


@dataclass(frozen=True)
class Row:
    """The numbers of a method on a family: part -> field -> Number; why_not: why there are none."""

    method: str
    family: str
    numbers: Mapping[str, Mapping[str, Number]]
    why_not: str = ""
    __repr__ = brief

    def values(self, part: str) -> dict[str, float | int | str]:
        return {name: number.value for name, number in self.numbers.get(part, {}).items()}


@cache
def _file() -> dict:
    return json.loads(Path(__file__).with_name("numbers.json").read_text(encoding="utf-8"))


def sources() -> dict[str, tuple[str, str]]:
    """Key -> (repository on GitHub, commit)."""
    return {key: (repository, commit) for key, (repository, commit) in _file()["sources"].items()}


def methods() -> tuple[str, ...]:
    return tuple(_file()["methods"])


def fields_of(method: str) -> frozenset[str]:
    """The method's own settings that the table has a number for, on whatever family and in whatever variant of it."""
    return frozenset(
        field
        for name, families in _file()["methods"].items()
        if _base(name) == method
        for family in families
        for field in row(name, family).numbers.get("method", {})
    )


@cache
def row(method: str, family: str) -> Row:
    """An empty row, with the reason, where the table has no numbers."""
    families = _file()["methods"].get(method, {})
    written = families.get(family, families.get("any family"))
    if written is None:
        return Row(method, family, {}, f"the table has no numbers for {method} on {family}")
    if "why not" in written:
        return Row(method, family, {}, written["why not"])
    numbers: dict[str, dict[str, Number]] = {}
    for other in written.get("as", ()):
        _take(numbers, _borrowed(other, method))
    _take(numbers, {part: _numbers(part, written[part], written.get("source", "")) for part in PARTS if part in written})
    return Row(method, family, numbers)


def _take(numbers: dict, more: Mapping) -> None:
    for part, fields in more.items():
        numbers[part] = numbers.get(part, {}) | fields


def _numbers(part: str, written, source: str) -> dict[str, Number]:
    found = {part: written} if part == PAIRS else written
    return {name: Number(*value) if isinstance(value, list) else Number(value, source) for name, value in found.items()}


def _borrowed(name: str, to: str) -> dict[str, dict[str, Number]]:
    """name: "method, family" or "method, family: parts"; a method's own settings are lent to another one by name only."""
    place, _, wanted = name.partition(": ")
    method, _, family = place.rpartition(", ")
    parts = wanted.split() or [part for part in PARTS if part != "method" or _base(method) == _base(to)]
    return {
        part: {field: _guessed(number, method, family) for field, number in fields.items()}
        for part, fields in row(method, family).numbers.items()
        if part in parts
    }


def _base(method: str) -> str:
    return method.split(", ")[0]


def _guessed(number: Number, method: str, family: str) -> Number:
    return number if number.guess else Number(number.value, f"guess: as {method} on {family} ({number.source})")
