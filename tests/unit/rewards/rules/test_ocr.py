"""OCR reward: golden 07b, and RapidOCR's real weights on drawn text."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from posttrain.rewards.base.reward import Prompt, score
from posttrain.rewards.rules.ocr import OCRReward, edit_distance, quoted, rapidocr_reader, text_score
from posttrain.tests.unit.golden_files import golden_file

ONE = torch.zeros(1, 8, 8, 3)


@pytest.mark.parametrize("number", range(len(golden_file("07b"))))
def test_golden(golden, number):
    row = golden("07b")[number]
    if row["recognised"] == "error":
        def reader(image):
            raise RuntimeError("engine")
        # the reference says 0 here; a failure must not look like a bad image
        assert OCRReward(reader=reader)(ONE, [Prompt(row["prompt"])]).isnan().all()
    else:
        value = OCRReward(reader=lambda image: row["recognised"] or [])(ONE, [Prompt(row["prompt"])])
        assert value.item() == pytest.approx(row["reward"], abs=1e-12)


def test_exact_rule_closes_the_hole_of_the_other():
    flood = [("buy open now sale open everything", 0.9)]
    assert text_score(flood, "open") == 1 and text_score(flood, "open", "exact") < 0.2
    assert text_score([("Op en", 0.9)], "open", "exact") == 1 and text_score([], "open", "exact") == 0


@pytest.mark.parametrize("a, b, d", [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2)])
def test_edit_distance(a, b, d):
    assert edit_distance(a, b) == edit_distance(b, a) == d


def test_quotes():
    assert quoted('a "Sale" and "Now"') == "Sale" and quoted("a \u201cCaf\u00e9\u201d sign") == "Caf\u00e9"
    assert quoted("no quotes") == "" and quoted('an "  " sign') == ""


def test_failures_are_counted_and_prompts_without_text_fail_alone():
    def reader(image):
        raise RuntimeError("engine")

    prompts = [Prompt('a "Sale" sign'), Prompt("a dog")]
    scores = score(OCRReward(reader=reader), ONE.expand(2, -1, -1, -1), prompts, [0, 1])
    assert scores.values.isnan().all() and scores.stats["ocr_failures"] == 1
    with pytest.raises(ValueError, match="double quotes"):
        OCRReward(reader=reader)(ONE, [Prompt("a dog")])
    with pytest.raises(ValueError, match="rule"):
        OCRReward("fuzzy")


def sign(text: str, size: int = 256) -> torch.Tensor:
    image = Image.new("RGB", (size, size), (230, 220, 200))
    ImageDraw.Draw(image).text((24, 100), text, fill=(20, 20, 60), font=ImageFont.load_default(size=44))
    return torch.from_numpy(np.asarray(image).copy())[None] / 255


def test_real_reader_prefers_the_right_sign():
    reward = OCRReward()
    images = torch.cat([sign("Open 24h"), sign("Closed"), sign(""), torch.zeros(1, 256, 256, 3)])
    values = reward(images, [Prompt('a shop sign that says "Open 24h"')] * 4)
    assert values[0] == 1 and values[1] < 0.5 and values[2] == 0 and values[3] == 0


def test_real_reader_survives_one_pixel():
    lines = rapidocr_reader()(torch.zeros(1, 1, 3, dtype=torch.uint8))
    assert list(lines) == []
