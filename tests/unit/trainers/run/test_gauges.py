"""Time and memory of an iteration are in its line, and what a held-out measurement took is not in the next one's."""

from __future__ import annotations

import time
from types import SimpleNamespace

import torch
from posttrain.rewards.base.stopwatch import SAMPLING, timed
from posttrain.tests.unit.trainers.run.run_helpers import Counter, Heard
from posttrain.trainers.run import RunPlan, Session
from posttrain.trainers.run.gauges import memory
from posttrain.trainers.run.metrics import read_metrics


def test_an_iterations_line_says_where_its_time_went_and_the_memory(tmp_path):
    with Session(tmp_path, RunPlan("cats", 3), Counter(), {"a": 1}, Heard()) as session:
        while not session.done:
            with timed(SAMPLING):
                time.sleep(0.02)
            session.advance(session.policy.stepped())
    for point in read_metrics(tmp_path / "cats" / "metrics.jsonl"):
        assert 0.02 <= point["seconds_sampling"] <= point["seconds"] + 1e-3 and "seconds_training" not in point
        assert 0.05 < point["ram_gb"] < 100


def test_the_card_is_asked_for_its_most_since_the_last_time(monkeypatch):
    asked = []
    card = SimpleNamespace(is_available=lambda: True, is_initialized=lambda: True, max_memory_reserved=lambda: 2.5e9,
                           reset_peak_memory_stats=lambda: asked.append(1))  # fmt: skip
    monkeypatch.setattr(torch, "cuda", card)
    assert memory()["vram_gb"] == 2.5 and asked == [1]
    card.is_initialized = lambda: False
    assert "vram_gb" not in memory() and asked == [1]
