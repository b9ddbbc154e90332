"""Tests that sweep: of their cases the whole suite runs those that a covering takes, and the rest on demand.

A test marked ``sweep`` has more cases than the whole suite has time for. Each value of each of its parameters is in one of
the cases that stay; the others get the mark ``rest_of_sweep``, which the whole suite leaves out. Named files, and
``python develop.py test --sweeps``, run them all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import pytest


def mark_the_rest(items: list[pytest.Item]) -> None:
    tests = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sweep"):
            tests[item.nodeid.split("[")[0]].append(item)
    for cases in tests.values():
        kept = covering([values(item) for item in cases])
        for number, item in enumerate(cases):
            if number not in kept:
                item.add_marker("rest_of_sweep")


def values(item: pytest.Item) -> list[Hashable]:
    """What the case is made of; a parameter that is a tuple counts as that many."""
    found = []
    for name, value in item.callspec.params.items():
        parts = value if isinstance(value, tuple) else (value,)
        found += [(name, place, getattr(part, "__name__", None) or str(part)) for place, part in enumerate(parts)]
    return found


def covering(cases: Sequence[Sequence[Hashable]]) -> set[int]:
    """The places of few cases that have every value of all of them; always the same ones, and common values in turns."""
    often, used, kept = Counter(value for case in cases for value in case), Counter(), set()
    for rare in sorted(often, key=lambda value: (often[value], str(value))):
        if used[rare]:
            continue
        holding = (number for number, case in enumerate(cases) if rare in case)
        best = min(holding, key=lambda n: (-sum(not used[value] for value in cases[n]), sum(used[v] for v in cases[n]), n))
        kept.add(best)
        used.update(cases[best])
    return kept
