"""The README's tables, where the program has the numbers."""

from __future__ import annotations

import re
from pathlib import Path

from posttrain.trainers.recipes.cards import CARDS, row_for

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| ([^|]+) \| ([\d.]+) GB \| (.+) \|$", re.MULTILINE)


def words(row) -> str:
    if row.in_ram:
        return "all in RAM" if row.in_ram == 1 else "half in RAM"
    return f"{row.at_once} at once" if row.recompute else "as is"


def test_the_cards_are_what_the_widget_does():
    found = ROW.findall(README)
    assert len(found) >= 7 and f"| {' | '.join(CARDS)} |" in README
    for model, weights, cells in found:
        expected = [words(row_for(card, int(float(weights) * 1e9))) for card in CARDS]
        assert cells.split(" | ") == expected, model
