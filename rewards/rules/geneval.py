"""The rules of GenEval, arXiv:2310.11513: does an image show the objects, counts, colours and positions of its prompt?

Pure functions over detections; which detector found them does not matter here. A spec is GenEval's record:
{"tag": "position", "include": [{"class": "sink", "count": 1}, {"class": "tie", "count": 1, "position": ["above", 0]}],
"exclude": [{"class": "tie", "count": 2}]}; "color" may stand in an include entry. All includes must hold, no exclude may.
Three answers: official (GenEval's own yes/no, at least `count` objects), strict (exactly `count`), and dense (mean over
the parts, each clamped to 0..1: for training; the reward server that Flow-GRPO used lets a part fall below 0).
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")


class Detection(NamedTuple):
    """box: x1, y1, x2, y2 in pixels, y downwards. score: 0..1."""

    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Thresholds:
    """confidence: a detection counts above it (counting: for the tag "counting"). most: detections kept per class.
    overlap: weaker detections that overlap a stronger one by this IoU or more are dropped, 1 = none. position: share of
    the objects' sizes by which the distance of their centres is reduced."""

    confidence: float = 0.3
    counting: float = 0.9
    most: int = 16
    overlap: float = 1.0
    position: float = 0.1


class Term(NamedTuple):
    """One part of a spec. value: 1 = holds, less = partly, may be negative. decided: False if it could not be looked at
    because an earlier part failed."""

    kind: str
    value: float
    decided: bool = True


Detections = Mapping[str, Sequence[Detection]]
ColourNamer = Callable[[str, Sequence[Detection]], Sequence[str]]  # class, its detections -> a colour for each


def keep(found: Detections, tag: str, limits: Thresholds = Thresholds()) -> dict[str, list[Detection]]:
    """What counts: above the threshold, strongest first, at most `most` per class; classes with nothing left out."""
    least = limits.counting if tag == "counting" else limits.confidence
    kept = {}
    for name, detections in found.items():
        # the later of two equal scores goes first, as in the official order
        order = sorted(enumerate(detections), key=lambda item: (item[1].score, item[0]), reverse=True)
        strong = [d for _, d in order if d.score > least][:limits.most]
        chosen: list[Detection] = []
        for d in strong:
            if limits.overlap >= 1 or all(overlap(d, c) < limits.overlap for c in chosen):
                chosen.append(d)
        if chosen:
            kept[name] = chosen
    return kept


def overlap(a: Detection, b: Detection) -> float:
    """Intersection over union, areas with one pixel added to each side."""
    def area(x1, y1, x2, y2):
        return max(x2 - x1 + 1, 0) * max(y2 - y1 + 1, 0)

    both = area(max(a.box[0], b.box[0]), max(a.box[1], b.box[1]), min(a.box[2], b.box[2]), min(a.box[3], b.box[3]))
    union = area(*a.box) + area(*b.box) - both
    return both / union if union else 0.0


def relations(a: Detection, b: Detection, slack: float = Thresholds.position) -> set[str]:
    """Where a is, seen from b: up to two of RELATIONS, none where they are too close."""
    shifts, offsets = [], []
    for low, high in ((0, 2), (1, 3)):
        offset = (a.box[low] + a.box[high] - b.box[low] - b.box[high]) / 2
        free = max(abs(offset) - slack * (abs(a.box[high] - a.box[low]) + abs(b.box[high] - b.box[low])), 0)
        offsets.append(offset)
        shifts.append(free if offset > 0 else -free)
    length = (offsets[0] ** 2 + offsets[1] ** 2) ** 0.5
    if all(abs(s) < 1e-3 for s in shifts):
        return set()
    x, y = shifts[0] / length, shifts[1] / length
    found = zip(RELATIONS, (x < -0.5, x > 0.5, y < -0.5, y > 0.5))
    return {name for name, holds in found if holds}


def official(spec: Mapping, kept: Detections, colours: ColourNamer, limits: Thresholds = Thresholds()) -> bool:
    """GenEval's verdict: at least `count` objects; only the `count` strongest are looked at for colour and place."""
    correct, groups = True, []
    for part in spec.get("include", ()):
        found = list(kept.get(part["class"], ()))[:part["count"]]
        holds = len(found) >= part["count"] and _coloured(part, found, colours) >= part["count"]
        if holds and "position" in part:
            holds = _placed(part, found, groups, limits)
        groups.append(found if holds else None)
        correct = correct and holds
    return correct and all(len(kept.get(p["class"], ())) < p["count"] for p in spec.get("exclude", ()))


def terms(spec: Mapping, kept: Detections, colours: ColourNamer, limits: Thresholds = Thresholds()) -> list[Term]:
    """The parts of a spec with exact counts: count, then colour and position where asked. Excludes need no term: an
    exact count already forbids more."""
    result, groups = [], []
    for part in spec.get("include", ()):
        found, need = list(kept.get(part["class"], ())), part["count"]
        holds = len(found) == need
        result.append(Term("count", 1 - abs(need - len(found)) / need))
        if "color" in part:
            named = _coloured(part, found, colours) if holds else 0
            result.append(Term("colour", 1 - abs(need - named) / need if holds else 0.0, holds))
            holds = holds and named == need
        if "position" in part:
            decided = holds and groups[part["position"][1]] is not None
            holds = decided and _placed(part, found, groups, limits)
            result.append(Term("position", float(holds), decided))
        groups.append(found if holds else None)
    return result


def strict(parts: Sequence[Term]) -> bool:
    """Every part holds exactly."""
    return all(t.value == 1 for t in parts)


def dense(parts: Sequence[Term]) -> float:
    """Mean of the parts, each clamped to 0..1: one object too many costs no more than one too few."""
    return sum(min(max(t.value, 0.0), 1.0) for t in parts) / len(parts) if parts else 1.0


def _coloured(part: Mapping, found: Sequence[Detection], colours: ColourNamer) -> int:
    """How many of the detections have the colour of the part; all, where it names none."""
    if "color" not in part or not found:
        return len(found)
    return list(colours(part["class"], found)).count(part["color"])


def _placed(part: Mapping, found: Sequence[Detection], groups: Sequence, limits: Thresholds) -> bool:
    relation, other = part["position"]
    targets = groups[other]
    return targets is not None and all(relation in relations(a, b, limits.position) for a in found for b in targets)
