"""Patterns of layers: usual ones pass, and whatever passes ends soon on any name."""

from __future__ import annotations

import random
import re
import time

import pytest
from posttrain.nodes.model.layer_pattern import checked_pattern

USUAL = [
    "",
    r"blocks\.\d+\.attn",
    r"^(double|single)_blocks\.([0-9]|1[0-8])\.",
    r".*attn.*to_(q|k|v)$",
    r"(?:attn|ff)\.",
    r"layers\.[0-9]{1,2}\.mlp",
    r"(?i)ATTN",
    r"(attn1|attn2)?\.to_q",
    r"[]a-z]+x",
    r"a+?b",
    r"(?!mlp)attn",
    r"\(x\)+",
    "注意力",
]
FOR_EVER = [
    r"(a+)+$",
    r"(a|a)*$",
    r"(.*)*x",
    r"(a?){60}a",
    r"(\w+\.?)+$",
    r"((ab)*)*c",
    r".*.*.*.*.*.*x",
    "a?" * 40 + "a" * 40,
    r"(a*)*b",
    r"(x+x+)+y",
    r"(?:a+){10}b",
    r"(a)(\1)+",
    r"(.+)\1+x",
]
NONE = ["(", "[", "*", "a{2}{3}{", "(?P<", "a" * 10_000, "(" * 250, "\\"]
NAMES = ["a" * 120, "double_blocks.0.img_attn.qkv." * 5, "x" * 60 + "y" * 60, "ab" * 60]


@pytest.mark.parametrize("pattern", USUAL)
def test_usual_patterns_pass(pattern):
    assert checked_pattern(pattern) == pattern


@pytest.mark.parametrize("pattern", [*FOR_EVER, *NONE])
def test_what_is_none_or_could_take_for_ever_is_refused(pattern):
    with pytest.raises(ValueError, match="^layer_pattern: ") as error:
        checked_pattern(pattern)
    assert len(str(error.value)) < 1000


def test_whatever_passes_ends_soon():
    """Patterns of random pieces; each that passes is searched for in names that are hard for it."""
    pieces, choose, passed = (
        ["a", ".", "[ab]", "(", ")", "|", "*", "+", "?", "{2,9}", "{3,}", "x", r"\.", r"\w", "(?:", "$"],
        random.Random(1),
        0,
    )
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        pattern = "".join(choose.choices(pieces, k=choose.randint(1, 14)))
        try:
            checked_pattern(pattern)
        except ValueError:
            continue
        passed += 1
        for name in NAMES:
            begun = time.monotonic()
            re.search(pattern, name)
            assert time.monotonic() - begun < 2, pattern
    assert passed > 200
