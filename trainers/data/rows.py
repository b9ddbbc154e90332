"""Rows of preference data: pairs of images, or single images with a thumb. Bad rows are left out, counted and listed."""
from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ...rewards.base.files import is_file, read_bytes
from ...rewards.base.prompt import Source
from ...rewards.base.words import brief, holds_half_characters, shown, unwritable
from .on_disk import StoredImage

SHOWN = 20
LEFT_OUT = {
    "row": ("row was", "rows were"),
    "entry": ("entry was", "entries were"),
    "image": ("image was", "images were"),
    "vote": ("vote was", "votes were"),
}


class BadRow(ValueError):
    """This row cannot be used; the message says why, in words."""


def raised(error: BadRow) -> Pair | Thumb:
    """For a row that is known to be bad before its turn comes."""
    raise error


@dataclass(frozen=True)
class Place:
    """The folder that a file of rows names its images from. permitted: whether one outside of it may be read."""

    folder: Path
    permitted: Callable[[Path], bool]

    def path(self, name: str) -> Path:
        return Path(os.path.abspath(self.folder / name))

    def file(self, name: str) -> Path:
        """The file of that name. BadRow where there is none, or where it lies elsewhere: nothing there is looked at."""
        if unwritable(name):
            raise BadRow(f"the image {shown(name)} cannot be a file's name")
        path = self.path(name)
        if not (path.is_relative_to(os.path.abspath(self.folder)) or self.permitted(path)):
            raise BadRow(f"the image {shown(name)} lies outside of the folder of this file; put it there")
        if not is_file(path):
            raise BadRow(f"the image {shown(name)} does not exist")
        return path


@dataclass(frozen=True)
class Picture:
    """An image that is not read yet: a file, or one of a store. name: for messages."""

    name: str
    path: Path | None = None
    stored: StoredImage | None = None
    __repr__ = brief

    def read(self) -> bytes:
        try:
            return read_bytes(self.path) if self.stored is None else self.stored.read()
        except OSError as error:
            raise BadRow(f"{self.name} cannot be read ({error.strerror or error})") from None

    def same_file(self, other: Picture) -> bool:
        """Whether both hold the same bytes; files of different lengths are not opened."""
        return self._length() == other._length() and self.read() == other.read()

    def _length(self) -> int:
        return self.path.stat().st_size if self.stored is None else self.stored.length


@dataclass(frozen=True)
class Pair:
    """Two images of one prompt, the first preferred. source: the picture that the prompt says how to change, or None."""

    name: str
    prompt: str
    winner: Picture
    loser: Picture
    source: Source | None = None
    __repr__ = brief

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return self.winner, self.loser


@dataclass(frozen=True)
class Thumb:
    """An image of a prompt that somebody liked or disliked. source: as of a Pair."""

    name: str
    prompt: str
    image: Picture
    good: bool
    source: Source | None = None
    __repr__ = brief

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return (self.image,)


@dataclass(frozen=True)
class Dataset:
    """rows: Pairs, or Thumbs, never both; source: the folder or file, for messages; skipped: "<row>: <why>" each."""

    source: str
    rows: tuple[Pair, ...] | tuple[Thumb, ...]
    skipped: tuple[str, ...] = ()
    __repr__ = brief

    @property
    def kind(self) -> str:
        return "pairs" if isinstance(self.rows[0], Pair) else "thumbs"

    @property
    def carries_pictures(self) -> bool:
        return any(row.source is not None for row in self.rows)

    def summary(self) -> str:
        """What was found and what was left out, for the user."""
        return self._counts() + skipped_text(self.skipped)

    def _counts(self) -> str:
        if self.kind == "pairs":
            return f"{len(self.rows)} pairs from {self.source}"
        ups = sum(row.good for row in self.rows)
        return f"{ups} thumbs up and {len(self.rows) - ups} down from {self.source}"


def skipped_text(skipped: tuple[str, ...], what: str = "row") -> str:
    """How many rows (or ``what`` they are) were left out and the first of them, with the reasons, each on a line; "" for none."""
    if not skipped:
        return ""
    more = [f"and {len(skipped) - SHOWN} more"] if len(skipped) > SHOWN else []
    return "\n".join(["", f"{len(skipped)} {LEFT_OUT[what][len(skipped) > 1]} left out:", *skipped[:SHOWN], *more])


def collected(source: str, found: Iterable[tuple[str, Callable[[], Pair | Thumb]]], limit: int) -> Dataset:
    """The rows that can be used, at most ``limit``. found: a row's name, and what makes it or raises BadRow.

    The first good row decides whether this is a set of pairs or of thumbs. ValueError names the source where no row
    can be used.
    """
    rows, skipped = [], []
    for name, make in found:
        if len(rows) == limit:
            break
        try:
            row = make()
            if rows and type(row) is not type(rows[0]):
                raise BadRow("it is a thumb among pairs" if isinstance(row, Thumb) else "it is a pair among thumbs")
            rows.append(row)
        except BadRow as error:
            skipped.append(shown(f"{name}: {error}", 400))
    if not rows:
        raise ValueError(f"{source}: it holds no pair and no thumb that can be used"
                         + (skipped_text(tuple(skipped)) or "; see the node's help for the layouts that are known"))
    return Dataset(source, tuple(rows), tuple(skipped))


def checked_pair(name: str, prompt: str, winner: Picture, loser: Picture) -> Pair:
    if winner.same_file(loser):
        raise BadRow("both images are the same file")
    return Pair(name, prompt, winner, loser)


def checked_prompt(text: object, fallback: str) -> str:
    """A caption, or the fallback where there is none."""
    prompt = text.strip() if isinstance(text, str) else ""
    if not prompt and not fallback:
        raise BadRow("it has no caption")
    if holds_half_characters(prompt):
        raise BadRow("its caption holds half of a character, which no text encoder can read")
    return prompt or fallback


def checked_record(line: str) -> dict:
    """The JSON object of a line."""
    if any("\udc80" <= character <= "\udcff" for character in line):
        raise BadRow("it is not UTF-8 text; save the file again as UTF-8")
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise BadRow("it is not JSON") from None
    if not isinstance(record, dict):
        raise BadRow("it is not a JSON object")
    return record
