"""The seven looks: found where pictures are damaged so, and nowhere else. docs/alarms.md has the longer count; write it anew with

POSTTRAIN_WRITE_DOCS=1 python develop.py test tests/unit/trainers/run/test_gallery.py
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
import torch
from posttrain.tests.unit.trainers.run.damaged_pictures import COUNT, DAMAGES, HARMLESS, cut_outs
from posttrain.tests.unit.trainers.run.run_helpers import ROOT
from posttrain.trainers.run.gallery import LOOKS, Changed, changed_looks, looks_of

PAGE = ROOT / "docs" / "alarms.md"
MARK = "<!-- written by tests/unit/trainers/run/test_gallery.py -->\n"
HALF, WHOLE = 0.5, 1.0


def names(first: torch.Tensor, now: torch.Tensor) -> set[str]:
    return {found.name for found in changed_looks(looks_of(first), looks_of(now))}


def table(sets: int) -> str:
    """How often each look is found, of so many sets of pictures."""
    found: Counter = Counter()
    for seed in range(sets):
        base = cut_outs(seed)
        for name, damage in DAMAGES.items():
            found.update((name, by) for by in (HALF, WHOLE) if name in names(base, damage(base, by)))
        for change in HARMLESS.values():
            found.update(("false", name) for name in names(base, change(base, seed)))
    rows = [
        f"| {name} | {LOOKS[name].word} | {found[name, WHOLE]} | {found[name, HALF]} | {found['false', name]} |"
        for name in LOOKS
    ]
    return "\n".join([
        f"Of {sets} sets of {COUNT} cut-outs of photographs, each beside its damaged or harmlessly changed twin ({sets * len(HARMLESS)} "
        f"harmless ones: {', '.join(HARMLESS)}):", "",
        "| look | the pictures have become | found, of the damaged | of those damaged half as much | found, of the harmless |",
        "|---|---|---|---|---|", *rows]) + "\n"  # fmt: skip


def test_the_page_counts_what_is_found():
    if os.environ.get("POSTTRAIN_WRITE_DOCS"):
        PAGE.write_text(PAGE.read_text(encoding="utf-8").partition(MARK)[0] + MARK + "\n" + table(20), encoding="utf-8")
    written = PAGE.read_text(encoding="utf-8").partition(MARK)[2]
    assert all(f"| {name} | {look.word} | 20 |" in written for name, look in LOOKS.items()), "every whole damage was found"
    assert DAMAGES.keys() == LOOKS.keys()


@pytest.mark.parametrize("name", LOOKS)
def test_a_damage_is_found(name):
    base = cut_outs(3)
    assert name in names(base, DAMAGES[name](base, WHOLE))


@pytest.mark.parametrize("change", HARMLESS)
def test_what_does_no_harm_is_not(change):
    base = cut_outs(5)
    assert names(base, HARMLESS[change](base, 5)) == set()


@pytest.mark.parametrize("shape", [(3, 24, 24, 3), (2, 300, 40, 1), (17, 8, 8, 4)])
def test_any_size_and_any_channels_give_a_finite_number_for_each_picture(shape):
    pictures = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    found = looks_of(pictures)
    assert found.keys() == LOOKS.keys() and {len(values) for values in found.values()} == {shape[0]}
    assert torch.tensor(list(found.values())).isfinite().all()
    assert changed_looks(found, found) == []
    assert changed_looks(looks_of(pictures[:1]), looks_of(pictures[:1])) == [], "one picture tells nothing"


def test_the_sentence_names_what_is_seen_and_where_to_look():
    said = Changed("corners", 0.5, 2.5).text
    assert (
        "marked in a corner, as by a watermark (corners 0.5 before training, now 2.5)" in said and "held-out pictures" in said
    )
