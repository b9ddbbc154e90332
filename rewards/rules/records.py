"""Checks GenEval records before they are used, so that a slip in a prompt file is named and not scored as a failure."""
from __future__ import annotations

from collections.abc import Mapping

from .geneval import COLOURS, RELATIONS


def checked_spec(record: Mapping, where: str) -> dict:
    """A record whose entries the verifier can read: tag, include, exclude. Raises ValueError."""
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
