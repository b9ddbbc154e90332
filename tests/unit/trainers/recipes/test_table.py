"""The table of recommended numbers: whole, of values that the settings take, each with a source; and docs/recipes.md.

    POSTTRAIN_WRITE_DOCS=1 python develop.py test tests/unit/trainers/recipes/test_table.py

writes the numbers of that page.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import fields
from pathlib import Path

import pytest
from posttrain.nodes.sampling.rollout import RECOMMENDED
from posttrain.nodes.trainers.node import OPEN, OPTIMIZER_FIELDS
from posttrain.trainers.engine.limits import check_limits
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.labels import Labels
from posttrain.trainers.feedback.pairs import Preferences
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import METHODS
from posttrain.trainers.policy import Recipe
from posttrain.trainers.recipes import table
from posttrain.trainers.recipes.families import FAMILIES, OTHER_EPS, OTHER_FLOW
from posttrain.trainers.recipes.settle import settled, variant_of
from posttrain.trainers.recipes.table import PARTS, methods, row, sources
from posttrain.trainers.recipes.words import name_of, plain, source_of
from posttrain.trainers.sampling.settings import Sampling

PAGE = Path(__file__).resolve().parents[4] / "docs" / "recipes.md"
KINDS = {kind.__name__: kind for kind in METHODS}
VARIANTS = [f"FlowGRPO, {trust}" for trust in FlowGRPO.CHOICES["trust"][1:]]
ROWS = [row(method, family) for method in methods() for family in FAMILIES]
FILLED = [found for found in ROWS if found.numbers]
ids = [f"{found.method} on {found.family}" for found in FILLED]
# a class's default that is not the row of models of no family, and why
EXPLAINED = {
    "FlowGRPO.clip_range": "0 is the usual value of the trust region, which is the table's",
    "LCM.teacher_steps": "16 suits models that are sampled with 16 steps, of which the demo is one; the sources' 50 is a teacher of "
                         "pictures of 512 pixels",
    "Optimizer": "the settings' class is for code, which names its own numbers; nodes begin with the recommended ones",
    "Recipe": "rank 16, alpha 16 and kaiming are what workflows from before the table mean where they do not say otherwise",
    "Sampling": "the settings' class is for code, which names its own numbers; nodes begin with the recommended ones",
}  # fmt: skip


def test_every_trainer_has_a_row_for_every_family_or_says_why_not():
    assert set(methods()) == {*KINDS, *VARIANTS}
    assert not [f"{found.method} on {found.family}" for found in ROWS if bool(found.numbers) == bool(found.why_not)]
    assert all(found.why_not[0].isupper() and " take " in found.why_not for found in ROWS if not found.numbers)


@pytest.mark.parametrize("found", FILLED, ids=ids)
def test_a_row_is_whole(found):
    assert {part: set(found.numbers.get(part, {})) for part in ("lora", "optimizer", "sampling")} == {
        "lora": {"rank", "alpha", "start"},
        "optimizer": {OPTIMIZER_FIELDS.get(name, name) for name in OPEN},
        "sampling": set(RECOMMENDED),
    }
    kind = KINDS[found.method.split(", ")[0]]
    assert set(found.numbers.get("method", {})) <= {field.name for field in fields(kind)}
    assert ("pairs" in found.numbers) == (METHODS[kind].learns_from in (Preferences, Labels))


@pytest.mark.parametrize("found", FILLED, ids=ids)
def test_its_values_are_ones_that_the_settings_take(found):
    kind = KINDS[found.method.split(", ")[0]]
    for settings, part in ((kind(), "method"), (Optimizer(), "optimizer"), (Sampling(), "sampling"), (Recipe(), "lora")):
        new = settled(settings, found.values(part), found.values(part))
        check_limits(new)
        for name, value in found.values(part).items():
            assert getattr(new, name) == value and type(getattr(new, name)) is type(getattr(settings, name)), name
            assert name not in getattr(new, "CHOICES", {}) or value in new.CHOICES[name]
    trained = found.numbers["sampling"]["noisy_steps"].value
    assert trained < found.numbers["sampling"]["steps"].value


@pytest.mark.parametrize("found", FILLED, ids=ids)
def test_each_number_has_a_source_or_is_called_a_guess(found):
    for part, numbers in found.numbers.items():
        for name, number in numbers.items():
            key, _, place = number.source.partition(" ")
            assert number.guess or (key in sources() and place), f"{part}.{name}: {number.source!r}"


def test_a_method_without_any_numbers_says_so_once(monkeypatch):
    monkeypatch.setitem(table._file()["methods"], "Mine", {"any family": {"why not": "None are published; take RWR"}})
    assert row("Mine", "Flux").why_not == row("Mine", OTHER_EPS).why_not == "None are published; take RWR"
    assert not table.fields_of("Mine") and "no numbers for Yours" in row("Yours", "Flux").why_not
    row.cache_clear()


def test_a_source_is_a_repository_and_a_commit_and_is_used():
    used = {number.source.split(" ")[0] for found in FILLED for part in found.numbers.values() for number in part.values()}
    assert set(sources()) <= used | {"KTO"}, "KTO has no number of a LoRA; a guess names it"
    assert all(
        re.fullmatch(r"[\w-]+/[\w-]+", repository) and re.fullmatch(r"[0-9a-f]{7}", commit)
        for repository, commit in sources().values()
    )


def test_defaults_of_a_method_are_the_row_of_models_of_no_family_or_explained():
    """A widget that a workflow leaves out is its class's default; the demo's models, of no family, are trained so."""
    for name, kind in KINDS.items():
        usual = {variant_of(kind())} | {name}
        for family in (OTHER_EPS, OTHER_FLOW):
            for field, value in row(*usual, family).values("method").items():
                assert getattr(kind(), field) == value or f"{name}.{field}" in EXPLAINED, f"{name}.{field} on {family}"
    for kind, part in ((Optimizer, "optimizer"), (Recipe, "lora"), (Sampling, "sampling")):
        differ = [field for field, value in row("FlowGRPO", OTHER_FLOW).values(part).items() if getattr(kind(), field) != value]
        assert bool(differ) == (kind.__name__ in EXPLAINED), differ


def written() -> str:
    """The part of the page that is made of the table."""
    lines = [
        "Written by tests/unit/trainers/recipes/test_table.py from trainers/recipes/numbers.json. A source is a repository on",
        "GitHub, a commit of it and a place there.",
        "",
    ]
    for method in methods():
        lines += [f"### {method}", ""]
        for family in FAMILIES:
            found = row(method, family)
            lines += [f"- **{family}**: {found.why_not or ''}".rstrip()]
            lines += [f"  - {', '.join(names)}: {source}" for source, names in by_source(found).items()]
        lines += [""]
    return "\n".join(lines)


def by_source(found) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for part in PARTS:
        for field, number in found.numbers.get(part, {}).items():
            groups[source_of(number.source)].append(f"{name_of(part, field)} {plain(number.value)}")
    return groups


def test_the_page_has_the_table_as_it_is():
    head, mark, _ = PAGE.read_text(encoding="utf-8").partition("## The numbers\n\n")
    assert mark
    if os.environ.get("POSTTRAIN_WRITE_DOCS"):
        PAGE.write_text(head + mark + written(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == head + mark + written(), "run this test with POSTTRAIN_WRITE_DOCS=1"


def test_every_number_of_the_page_has_a_source():
    numbers = [line for line in written().splitlines() if line.startswith("  - ")]
    assert len(numbers) > 300 and all(re.search(r": (guess|[\w-]+/[\w-]+ @ [0-9a-f]{7} )", line) for line in numbers)
