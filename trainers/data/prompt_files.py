"""Prompts from files: a text with one on each line, records (.jsonl, .json), or a table (.csv, .tsv) with a column of prompts.

Kinds of files are told by their names; what is of none of them is refused, so that no table is read as if it were prompts.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from ...rewards.base.files import is_file
from ...rewards.base.reward import Prompt
from ...rewards.base.words import holds_half_characters, shown
from ..prompts import PromptSet
from .wildcards import every_reading

TEXTS = ("", ".txt", ".text", ".prompt", ".prompts", ".list", ".lst", ".md")
RECORDS, TABLES = (".jsonl", ".ndjson"), {".csv": ",", ".tsv": "\t"}
COLUMNS = ("prompt", "prompts", "caption", "text")
MOST_NOTES = 3  # on lines with too many choices
LONGEST = 1 << 20  # bytes of a line


def read_prompts(path: Path, limit: int) -> tuple[PromptSet, str]:
    """The first ``limit`` prompts of a file, and a word on them. ValueError names the file and what is wrong with it."""
    name, kind = shown(path.name), path.suffix.lower()
    if not is_file(path):
        raise ValueError(f"file: {name} does not exist; put it into ComfyUI's input folder")
    if kind in TEXTS:
        prompts: Iterator[Prompt] = (Prompt(line.strip()) for _, line in _lines(path, name))
    elif kind in RECORDS:
        prompts = (_record(line, f"line {number} of {name}") for number, line in _lines(path, name))
    elif kind == ".json":
        prompts = _listed(path, name)
    elif kind in TABLES:
        prompts = _column(path, name, TABLES[kind])
    else:
        raise ValueError(
            f"file: {name} is of a kind that is not read here; save the prompts as .txt with one on each line, "
            "or as .jsonl, .json, .csv or .tsv"
        )
    notes: list[str] = []
    prompts = every_reading(prompts, f"file {name}", notes)
    taken, left = tuple(islice(prompts, limit)), sum(1 for _ in prompts)
    if not taken:
        raise ValueError(f"file {name}: there is no prompt in it; write at least one line")
    return PromptSet(taken), "\n".join([_report(len(taken) + left, limit), *notes[:MOST_NOTES]])


def _report(found: int, limit: int) -> str:
    if found <= limit:
        return f"{found:,} prompts found"
    return f"The first {limit:,} of {found:,} prompts; the others are left out. To read more, raise 'limit'."


def _lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """(number, text) of each line that is not empty, one after the other: the file may be large."""
    at = 0
    with path.open("rb") as file:
        for number in range(1, 1 << 60):
            line = file.readline(LONGEST + 1)
            if not line:
                return
            if len(line) > LONGEST:
                raise ValueError(f"file: line {number} of {name} is longer than {LONGEST:,} bytes; put one prompt on each line")
            for part in _text(line, name, at, first=number == 1).split("\r"):  # old files end their lines with it
                if part.strip():
                    yield number, part
            at += len(line)


def _text(data: bytes, name: str, at: int = 0, first: bool = True) -> str:
    if b"\0" in data or first and data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(
            f"file: {name} is not UTF-8 text: it looks like UTF-16, or like no text at all; save it again as UTF-8"
        )
    try:
        return data.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"file: {name} is not UTF-8 text (byte {at + error.start}); save it again as UTF-8") from None


def _record(line: str, where: str) -> Prompt:
    try:
        return _prompt_of(json.loads(line))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f'file: {where} is not a JSON object with a "prompt"; correct it or remove the line') from None


def _prompt_of(record: dict) -> Prompt:
    text = record["prompt"]
    if not isinstance(text, str) or holds_half_characters(text):
        raise TypeError("the prompt is no text")
    return Prompt(text, record)


def _listed(path: Path, name: str) -> Iterator[Prompt]:
    """A JSON list of texts, or of objects with a "prompt"."""
    if path.stat().st_size > 64 * LONGEST:
        raise ValueError(f"file: {name} is too large for .json; save it as .jsonl, one object on each line")
    try:
        found = json.loads(_text(path.read_bytes(), name))
    except RecursionError:
        found = None
    except json.JSONDecodeError as error:
        raise ValueError(f"file: {name} is not JSON ({error})") from None
    if not isinstance(found, list):
        raise ValueError(f"file: {name} is no JSON list of prompts")
    for number, each in enumerate(found, 1):
        try:
            yield Prompt(each.strip()) if isinstance(each, str) else _prompt_of(each)
        except (KeyError, TypeError):
            raise ValueError(f'file: entry {number} of {name} is neither a text nor an object with a "prompt"') from None


def _column(path: Path, name: str, delimiter: str) -> Iterator[Prompt]:
    """The column of prompts of a table whose first row names the columns."""
    rows = csv.reader(io.StringIO(_text(path.read_bytes(), name), newline=""), delimiter=delimiter)
    try:
        header = [each.strip().lower() for each in next(rows, [])]
        at = next((header.index(column) for column in COLUMNS if column in header), None)
        if at is None:
            raise ValueError(
                f"file: {name} has no column called {' or '.join(COLUMNS)}; its first row is "
                f"{shown(', '.join(header))}. Name the column of the prompts, or save them as .txt, one on each "
                "line"
            )
        for row in rows:
            if len(row) > at and row[at].strip():
                yield Prompt(row[at].strip())
    except csv.Error as error:
        raise ValueError(f"file: {name} is not a table that can be read (line {rows.line_num}: {error})") from None
