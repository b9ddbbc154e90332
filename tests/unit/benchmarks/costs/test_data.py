"""Memory stays flat however large the data: the benchmark of it, on fewer pairs and iterations, and its own limits."""

from __future__ import annotations

import gc
import sys

import pytest
from posttrain.tools.host import ROOT

sys.path.append(str(ROOT))  # last, so that ComfyUI's nodes.py is not hidden
from benchmarks.costs import data

HELD = 30  # MB: what all encodings of the draws, or all pictures of the pairs, would take is several times as much


@pytest.fixture
def smaller(monkeypatch, tmp_path):
    monkeypatch.setattr("folder_paths.temp_directory", str(tmp_path))
    for name, value in {"ITERATIONS": 200, "SETTLED": 40, "PAIRS": 2_000, "TEXT": (1, 77, 256)}.items():
        monkeypatch.setattr(data, name, value)
    gc.collect()


def grown(measures) -> float:
    return next(each.value for each in measures if each.name.startswith("growth"))


def test_twenty_thousand_prompts(smaller):
    drawn = (data.ITERATIONS - data.SETTLED) * 8 * 4 * 77 * 256 / 2**20
    assert grown(data.prompts()) < HELD < drawn / 3


def test_pairs_of_a_table(smaller, tmp_path):
    assert grown(data.pairs(tmp_path / "pairs.parquet")) < HELD
