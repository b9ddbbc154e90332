"""What a card's size decides."""

from __future__ import annotations

from pathlib import Path

import posttrain
import pytest
from posttrain.trainers.recipes.cards import AS_SET, CARDS, CHOICES, ROWS, row_for

GB = 2**30
SDXL, FLUX, SD15 = int(5.1 * GB), int(23.8 * GB), int(1.7 * GB)


@pytest.mark.parametrize("weights", [SD15, SDXL, FLUX, 41 * GB])
def test_a_larger_card_never_gives_up_more(weights):
    rows = [row_for(card, weights) for card in CARDS]
    assert [row.share for row in rows] == sorted((row.share for row in rows), reverse=True)


def test_each_row_gives_up_more_than_the_one_before_and_says_why():
    for first, second in zip(ROWS, ROWS[1:]):
        assert first.share < second.share and first.recompute <= second.recompute and first.in_ram <= second.in_ram
        assert (first.at_once or 99) >= second.at_once > 0
    assert all(row.why for row in ROWS)


def test_known_models_on_known_cards():
    assert row_for("8 GB", SD15).recompute == 0.0
    assert row_for("8 GB", SDXL)[1:4] == (True, 1, 0.0) and row_for("12 GB", SDXL)[1:4] == (True, 4, 0.0)
    assert row_for("24 GB", SDXL).at_once == 0
    assert row_for("24 GB", FLUX).in_ram == 0.5 and row_for("16 GB", FLUX).in_ram == 1 and row_for("48 GB", FLUX).in_ram == 0


def test_as_set_is_first_and_decides_nothing_and_other_words_are_refused():
    assert CHOICES[0] == AS_SET and row_for(AS_SET, SDXL) is None
    with pytest.raises(ValueError, match="^card: unknown '6 GB'; use one of as set, 8 GB"):
        row_for("6 GB", SDXL)


def test_the_page_has_every_row():
    page = (Path(posttrain.__path__[0]) / "docs" / "memory.md").read_text(encoding="utf-8")
    assert all(row.why in page for row in ROWS)
