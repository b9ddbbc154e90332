"""metrics.jsonl: a long curve opens by reading little, new lines are read alone, and what is drawn shows every spike."""

from __future__ import annotations

import json
import math

import pytest
from posttrain.trainers.run import metrics
from posttrain.trainers.run.metrics import COARSE, STRETCH, MetricsFile, curve, last_points, read_metrics


def point(i: int) -> dict:
    return {"iteration": i, "reward_mean": math.sin(i / 500), "kl": i * 1e-6, "spike": 9.0 if i in (12_345, 49_999) else 0.0}


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    path.write_text("".join(json.dumps(point(i)) + "\n" for i in range(1, 50_001)))
    MetricsFile(path, 1 << 60).close()
    return path


@pytest.fixture
def parsed(monkeypatch):
    """How many lines were parsed, and how many bytes they had."""
    counts = {"lines": 0, "bytes": 0}
    loads = json.loads

    def counting(text, *args, **kwargs):
        counts["lines"] += 1
        counts["bytes"] += len(text)
        return loads(text, *args, **kwargs)

    monkeypatch.setattr(metrics.json, "loads", counting)
    return counts


def test_a_long_curve_opens_by_its_coarse_one_and_still_shows_every_spike(long_run, parsed):
    points, factor = curve(long_run, 0, 2000)
    assert parsed["lines"] <= 50_000 / STRETCH + 800, "2,500 lines of extremes, and the end of the curve itself"
    assert 1000 < len(points) <= 2000 + STRETCH and factor > STRETCH / 2
    assert (
        sum(each["spike"] == 9.0 for each in points) == 2 and points[0]["iteration"] == 1 and points[-1]["iteration"] == 50_000
    )
    whole, _ = metrics.thin([point(i) for i in range(1, 50_001)], 2000)
    for name in ("reward_mean", "kl"):
        for find in (min, max):
            assert find(p[name] for p in points) == find(p[name] for p in whole)


def test_new_lines_are_read_alone(long_run, parsed):
    assert [each["iteration"] for each in read_metrics(long_run, 49_990)] == list(range(49_991, 50_001))
    assert parsed["bytes"] <= metrics.BLOCK
    parsed |= {"bytes": 0, "lines": 0}
    assert [each["iteration"] for each in last_points(long_run)] == list(range(49_996, 50_001)) and parsed["lines"] <= 6


@pytest.mark.parametrize("since", [0, 1, 7, 48_000, 49_999, 50_000, 60_000])
def test_reading_from_the_end_gives_what_reading_all_gives(long_run, since):
    assert read_metrics(long_run, since) == [point(i) for i in range(since + 1, 50_001)]


def test_the_coarse_curve_is_cut_back_with_the_curve_and_grows_with_it(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for resumed_at, until in ((0, 130), (67, 200)):
        file = MetricsFile(path, resumed_at)
        for i in range(resumed_at + 1, until + 1):
            file.append(point(i))
        file.close()
    pairs = [json.loads(line) for line in (tmp_path / COARSE).read_text().splitlines()]
    assert [(first["iteration"], last["iteration"]) for first, last in pairs] == [
        (1 + i, STRETCH + i) for i in range(0, 200, STRETCH)
    ]


def test_a_coarse_curve_that_is_damaged_or_missing_costs_nothing_but_time(long_run, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(long_run.read_bytes())
    expected = curve(path, 0, 2000)
    (tmp_path / COARSE).write_text('{"not": "ours"}\n[5]\n[{"iteration": 1\n')
    assert curve(path, 0, 2000) == expected
