"""Prompt files of GenEval: one JSON record a line, with the prompt and what the image must show."""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..base import Prompt
from .geneval import COLOURS, RELATIONS


def read_geneval(path: str | Path) -> tuple[Prompt, ...]:
    """Prompts with their spec. Raises ValueError or FileNotFoundError that names the line and what is wrong there."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"prompt file {path} does not exist.")
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8.") from error
    prompts = tuple(_record(line, f"{path.name}, line {number}")
                    for number, line in enumerate(text.splitlines(), 1) if line.strip())
    if not prompts:
        raise ValueError(f"{path.name} holds no prompts.")
    return prompts


def _record(line: str, where: str) -> Prompt:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not JSON: {error}.") from error
    if not isinstance(record, Mapping) or not isinstance(record.get("prompt"), str):
        raise ValueError(f'{where} needs a "prompt" text.')
    return Prompt(record["prompt"], checked_spec(record, where))


def checked_spec(record: Mapping, where: str) -> dict:
    """A spec whose entries the verifier can read: tag, include, exclude. Raises ValueError."""
    include, exclude = record.get("include", []), record.get("exclude", [])
    if not include and not exclude:
        raise ValueError(f'{where} needs "include": what the image must show.')
    for kind, parts in (("include", include), ("exclude", exclude)):
        for index, part in enumerate(parts):
            _check_part(part, index if kind == "include" else 0, f"{where}, {kind} {index + 1}")
    return {"tag": record.get("tag", ""), "include": list(include), "exclude": list(exclude)}


def _check_part(part: Mapping, index: int, where: str) -> None:
    if not isinstance(part, Mapping) or not isinstance(part.get("class"), str):
        raise ValueError(f'{where} needs a "class".')
    if type(part.get("count")) is not int or part["count"] < 1:
        raise ValueError(f'{where}: "count" must be a whole number of at least 1, got {part.get("count")!r}.')
    if "color" in part and part["color"] not in COLOURS:
        raise ValueError(f'{where}: "color" must be one of {", ".join(COLOURS)}, got {part["color"]!r}.')
    if "position" in part:
        relation, other = [*part["position"], None, None][:2]
        if relation not in RELATIONS or type(other) is not int or not 0 <= other < index:
            raise ValueError(f'{where}: "position" must be [{" | ".join(RELATIONS)}, number of an earlier include '
                             f'entry from 0], got {part["position"]!r}.')
