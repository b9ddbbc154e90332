"""Scores as a table."""

from __future__ import annotations

import torch
from posttrain.rewards.base.report import headline, table
from posttrain.rewards.base.reward import Prompt, score
from posttrain.rewards.composite.combine import WeightedSum

from ..constant import Constant


def test_table_has_a_line_per_image_and_marks_failures():
    scores = score(
        WeightedSum(((Constant([0.5, torch.nan]), 1.0), (Constant(1.0, name="b"), 1.0))),
        torch.zeros(2, 2, 2, 3),
        [Prompt("a\tcat"), Prompt("dog")],
        [0, 1],
    )
    lines = [line.split("\t") for line in table(scores, [Prompt("a\tcat"), Prompt("dog")]).splitlines()]
    assert lines == [
        ["image", "score", "constant", "b", "prompt"],
        ["1", "1.5", "0.5", "1", "a cat"],
        ["2", "failed", "failed", "1", "dog"],
    ]
    assert "1 of 2 could not be scored" in headline(scores)
