"""The toy world: coloured balls on a grey square, with prompts in the style of GenEval (arXiv:2310.11513).

A *spec* says what an image must show and is what the verifier checks::

    {"kind": "position", "objects": [[1, "red"], [1, "blue"]], "relation": "left of"}

``objects`` lists (count, colour); ``relation`` is None or where the first object lies as seen from the second.
Every ball sits in a cell of a 3x3 grid of its own, so that balls never touch.
"""
from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

SIZE = 24  # pixels
CELL = SIZE // 3
PALETTE = {"red": (0.90, 0.12, 0.12), "green": (0.10, 0.72, 0.18), "blue": (0.15, 0.25, 0.95),
           "yellow": (0.95, 0.88, 0.10)}
COLOURS = tuple(PALETTE)
NUMBERS = {1: "a", 2: "two", 3: "three"}
RELATIONS = ("left of", "right of", "above", "below")
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
KINDS = ("single", "count", "two objects", "position", "mixed count")
RADIUS = (2.5, 3.0)
CENTRE_JITTER, COLOUR_JITTER, GREY = 0.4, 0.03, (0.45, 0.55)
MAX_BALLS = 5
WORDS = ("a", "two", "three", *COLOURS, "ball", "balls", "and", "left", "right", "of", "above", "below")


def spec(kind: str, objects: Sequence[tuple[int, str]], relation: str | None = None) -> dict:
    """A spec as plain JSON values."""
    return {"kind": kind, "objects": [[int(n), c] for n, c in objects], "relation": relation}


def caption(s: dict) -> str:
    """The prompt of a spec, for example ``two red balls and a blue ball``."""
    parts = [f"{NUMBERS[n]} {c} ball{'s' if n > 1 else ''}" for n, c in s["objects"]]
    return f" {s['relation'] or 'and'} ".join(parts)


def all_specs() -> list[dict]:
    """Every spec of the grammar, 96 in all, in a fixed order."""
    pairs = list(itertools.permutations(COLOURS, 2))
    found = [spec("single", [(1, c)]) for c in COLOURS]
    found += [spec("count", [(n, c)]) for n in (2, 3) for c in COLOURS]
    found += [spec("two objects", [(1, a), (1, b)]) for a, b in pairs]
    found += [spec("position", [(1, a), (1, b)], r) for r in RELATIONS for a, b in pairs]
    found += [spec("mixed count", [(n, a), (1, b)]) for n in (2, 3) for a, b in pairs]
    return found


def _held_out_captions() -> frozenset[str]:
    held = [spec("single", [(1, "green")])]
    held += [spec("count", [(n, c)]) for n, c in ((2, "yellow"), (3, "red"), (3, "blue"))]
    # both word orders of a pair and both ways to say a relation: the picture itself is new, not only its words
    held += [spec("two objects", [(1, a), (1, b)]) for a, b in (("red", "yellow"), ("yellow", "red"))]
    for a, r, b in (("red", "left of", "blue"), ("green", "left of", "yellow"),
                    ("blue", "above", "green"), ("yellow", "above", "red")):
        held += [spec("position", [(1, a), (1, b)], r), spec("position", [(1, b), (1, a)], OPPOSITE[r])]
    held += [spec("mixed count", [(n, a), (1, b)]) for n, a, b in
             ((2, "blue", "red"), (2, "green", "blue"), (3, "yellow", "green"), (3, "red", "blue"))]
    return frozenset(caption(s) for s in held)


HELD_OUT = _held_out_captions()


def split(held_out: bool) -> list[dict]:
    """The specs of the fixed split: 78 for training or the 18 that no model was ever trained on."""
    return [s for s in all_specs() if (caption(s) in HELD_OUT) == held_out]


def _relation_holds(a: np.ndarray, b: np.ndarray, relation: str) -> bool:
    dy, dx = (b - a) if relation in ("left of", "above") else (a - b)
    along, across = (dx, dy) if relation in ("left of", "right of") else (dy, dx)
    return along > abs(across)


def _cell_layouts(relation: str) -> list[tuple[int, int]]:
    where = np.stack(np.divmod(np.arange(9), 3), 1)  # (row, column) of each cell
    return [(i, j) for i, j in itertools.permutations(range(9), 2) if _relation_holds(where[i], where[j], relation)]


_LAYOUTS = {r: np.array(_cell_layouts(r)) for r in RELATIONS}


def _cells(s: dict, rng: np.random.Generator) -> np.ndarray:
    if s["relation"]:
        pairs = _LAYOUTS[s["relation"]]
        return pairs[rng.integers(len(pairs))]
    return rng.permutation(9)[: sum(n for n, _ in s["objects"])]


def render(specs: Sequence[dict], seed: int, grey: tuple[float, float] = GREY) -> np.ndarray:
    """True pictures of the specs. Returns float32 [N, 24, 24, 3] in [0, 1]; the same seed gives the same pictures.

    grey: the background's lightness lies between these.
    """
    rng = np.random.default_rng(seed)
    count = len(specs)
    cells = np.zeros((count, MAX_BALLS), int)
    colours = np.zeros((count, MAX_BALLS, 3), np.float32)
    visible = np.zeros((count, MAX_BALLS), np.float32)
    for i, s in enumerate(specs):
        balls = [PALETTE[c] for n, c in s["objects"] for _ in range(n)]
        if balls:
            cells[i, : len(balls)] = _cells(s, rng)
            colours[i, : len(balls)] = balls
            visible[i, : len(balls)] = 1
    colours += rng.uniform(-COLOUR_JITTER, COLOUR_JITTER, colours.shape).astype(np.float32)
    centres = np.stack(np.divmod(cells, 3), -1) * CELL + CELL / 2 - 0.5
    centres = (centres + rng.uniform(-CENTRE_JITTER, CENTRE_JITTER, centres.shape)).astype(np.float32)
    radii = rng.uniform(*RADIUS, cells.shape).astype(np.float32)
    images = np.empty((count, SIZE, SIZE, 3), np.float32)
    images[:] = rng.uniform(*grey, (count, 1, 1, 1))
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    for k in range(MAX_BALLS):
        cy, cx = centres[:, k, 0, None, None], centres[:, k, 1, None, None]
        cover = np.clip(radii[:, k, None, None] + 0.5 - np.hypot(y - cy, x - cx), 0, 1) * visible[:, k, None, None]
        images += cover[..., None] * (colours[:, k, None, None] - images)
    return images.clip(0, 1)


def wrong(s: dict, rng: np.random.Generator) -> dict:
    """A spec that says something else than ``s``: wrong count, colour or relation, colours swapped, a ball missing.

    A picture of another relation may still fit by chance: what is above may also be left of.
    """
    objects, relation = [tuple(o) for o in s["objects"]], s["relation"]
    options = ["colour", "count", "missing"]
    if relation:
        options += ["relation"] * 3
    if len(objects) == 2 and objects[0][0] != objects[1][0]:
        options.append("swap")
    choice = options[rng.integers(len(options))]
    which = int(rng.integers(len(objects)))
    n, c = objects[which]
    if choice == "relation":
        relation = [r for r in RELATIONS if r != relation][rng.integers(3)]
    elif choice == "swap":
        objects = [(objects[0][0], objects[1][1]), (objects[1][0], objects[0][1])]
    elif choice == "colour":
        present = {colour for _, colour in objects}
        objects[which] = (n, [o for o in COLOURS if o not in present][rng.integers(4 - len(present))])
    else:
        change = 1 if choice == "count" and (n < 3 and rng.random() < 0.5 or n == 1) else -1
        objects[which] = (n + change, c)
        relation = None
    return spec(s["kind"], [o for o in objects if o[0]], relation)
