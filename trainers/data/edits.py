"""Edits: pictures with words that say how to change them, from a folder or a table.

A folder holds pictures, each with a .txt file of the same name beside it, one instruction on each line. A table (.csv, .tsv,
.jsonl) names in each row a picture, from the table's own folder, and an instruction.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ...rewards.base.prompt import Prompt, Source
from ...rewards.base.words import lines_of as lines_in
from ...rewards.base.words import shown
from ...rewards.folders import images_in, other_images, read_caption
from ...rewards.images import UnreadableImage, check_image, read_image
from ..prompts import PromptSet
from .files import lines_of
from .rows import BadRow, Place, checked_prompt, checked_record, skipped_text
from .wildcards import every_reading, without_comments

PICTURE, WORDS = "source", ("instruction", "prompt")
TABLES = {".csv": ",", ".tsv": "\t"}
Rows = Iterator[tuple[str, Callable[[], list[Prompt]]]]  # a row's name, and what makes its prompts or raises BadRow


def read_edits(path: Path, limit: int, permitted: Callable[[Path], bool] = lambda path: False) -> tuple[PromptSet, str]:
    """The first ``limit`` edits, and a word on them and on what was left out. permitted: whether a picture outside of a table's
    folder may be read. ValueError names what is wrong."""
    name, notes = shown(path.name), list[str]()
    if path.is_dir():
        rows = _of_folder(path)
    elif not path.is_file():
        raise ValueError(f"folder_or_table: {name} does not exist; put it into ComfyUI's input folder")
    elif path.suffix.lower() == ".jsonl":
        rows = ((row, partial(_of_record, line, Place(path.parent, permitted))) for row, line in lines_of(path))
    elif path.suffix.lower() in TABLES:
        rows = _of_table(path, name, Place(path.parent, permitted), notes)
    else:
        raise ValueError(f"folder_or_table: {name} is neither a folder of pictures with .txt files nor a .csv, .tsv or .jsonl")
    found: list[Prompt] = []
    skipped: list[str] = []
    for row, make in rows:
        if len(found) >= limit:
            break
        try:
            found += every_reading(make(), f"folder_or_table {name}, {row}", notes)
        except BadRow as error:
            skipped.append(shown(f"{row}: {error}", 400))
    if not found:
        raise ValueError(
            f"folder_or_table: {name} holds no picture with words that say how to change it"
            + (skipped_text(tuple(skipped)) or "; see the node's help for the layouts that are known")
        )
    found = found[:limit]
    pictures = len({prompt.source for prompt in found})
    said = "\n".join([_report(len(found), pictures), *notes])
    return PromptSet(tuple(found)), said + skipped_text(tuple(skipped))


def _report(edits: int, pictures: int) -> str:
    return f"{edits:,} edits of {pictures:,} pictures"


def source_of(path: Path) -> Source:
    """A picture on the disk, read when it is asked for. BadRow where it is none."""
    try:
        check_image(path)
    except UnreadableImage as error:
        raise BadRow(f"its picture {shown(path.name)} cannot be read ({error.reason})") from None
    state = path.stat()
    key = hashlib.sha256(f"{path}\0{state.st_mtime_ns}\0{state.st_size}".encode("utf-8", "surrogateescape")).hexdigest()
    return Source(path.name, key, lambda: read_image(path)[0])


def _of_folder(folder: Path) -> Rows:
    for text in other_images(folder, deep=True):
        yield text.split(": ", 1)[0], partial(_left_out, text.split(": ", 1)[1])
    for path in images_in(folder):
        yield shown(path.name), partial(_captioned, path)


def _left_out(why: str) -> list[Prompt]:
    raise BadRow(why)


def _captioned(path: Path) -> list[Prompt]:
    beside = path.with_suffix(".txt")
    if not beside.is_file():
        raise BadRow(f"there is no {shown(beside.name)} beside it that says how to change it")
    try:
        told = [line for line in lines_in(without_comments(read_caption(beside), shown(beside.name))) if line.strip()]
    except ValueError as error:
        raise BadRow(str(error)) from None
    if not told:
        raise BadRow(f"{shown(beside.name)} is empty; write one instruction on each line")
    source = source_of(path)
    return [Prompt(checked_prompt(line, ""), source=source) for line in told]


def _of_record(line: str, place: Place) -> list[Prompt]:
    record = checked_record(line)
    return [_of_row({key: value for key, value in record.items() if isinstance(value, str)}, place, record)]


def _of_row(row: dict[str, str], place: Place, record: dict | None = None) -> Prompt:
    if not row.get(PICTURE, "").strip():
        raise BadRow(f'it names no picture ("{PICTURE}")')
    words = next((row[name] for name in WORDS if row.get(name, "").strip()), None)
    if words is None:
        raise BadRow(f'it has no "{WORDS[0]}"')
    return Prompt(checked_prompt(words, ""), record, source=source_of(place.file(row[PICTURE].strip())))


def _of_table(path: Path, name: str, place: Place, notes: list[str]) -> Rows:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, delimiter=TABLES[path.suffix.lower()])
            table.fieldnames = known = [each.strip().lower() for each in table.fieldnames or ()]
            if PICTURE not in known or not set(WORDS) & set(known):
                raise ValueError(
                    f"folder_or_table: {name} needs a column called {PICTURE} and one called {WORDS[0]}; its first "
                    f"row is {shown(', '.join(known))}"
                )
            if unused := [each for each in known if each not in (PICTURE, *WORDS)]:
                notes.append(f"Columns that are not used: {shown(', '.join(unused))}.")
            for row in table:
                words = {key: value for key, value in row.items() if key and isinstance(value, str)}
                yield f"line {table.line_num}", partial(lambda words: [_of_row(words, place)], words)
    except UnicodeDecodeError:
        raise ValueError(f"folder_or_table: {name} is not UTF-8 text; save it again as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"folder_or_table: {name} is not a table that can be read ({error})") from None
