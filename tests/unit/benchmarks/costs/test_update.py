"""The two sides of the ratios compute the same thing, whatever time they take."""

from __future__ import annotations

import sys

import pytest
from posttrain.tools.host import ROOT

sys.path.append(str(ROOT))  # last, so that ComfyUI's nodes.py is not hidden
from benchmarks.costs import _world, rollout, update


@pytest.mark.parametrize("bench", [update, rollout])
def test_a_small_one_is_measured(bench, monkeypatch):
    monkeypatch.setattr(
        bench, "world", lambda: _world.world(steps=4, prompts_per_iteration=2, images_per_prompt=2, batch_size=4)
    )
    measures = bench.measure()
    assert all(each.value > 0 and "4 images" in each.detail for each in measures if each.limit)
