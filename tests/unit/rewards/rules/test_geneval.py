"""GenEval's rules against golden 07c, and its prompt files."""
from __future__ import annotations

import pytest
from posttrain.rewards.rules.geneval import (
    Detection,
    Term,
    Thresholds,
    dense,
    keep,
    official,
    overlap,
    relations,
    strict,
    terms,
)
from posttrain.rewards.rules.records import checked_spec
from posttrain.tests.unit.golden_files import golden_file

GOLDEN = golden_file("07c")


def found_in(case):
    return {name: [Detection(tuple(b[:4]), b[4]) for b in boxes] for name, boxes in case["detections"].items()}


def namer_of(case):
    """The golden file names one colour per listed detection; the namer is asked about kept ones."""
    table = {(name, d): colour for name, colours in case["colors"].items()
             for d, colour in zip(found_in(case)[name], colours)}
    return lambda name, detections: [table[name, d] for d in detections]


def server_score(parts: list[Term]) -> float:
    """The reward server's mean: counts may fall below 0, and a wrong position adds 0 and then 1 as well."""
    values = []
    for t in parts:
        values += [t.value, 1.0] if t.kind == "position" and t.decided and t.value == 0 else [t.value]
    return sum(values) / len(values)


@pytest.mark.parametrize("number", range(len(GOLDEN["cases"])))
def test_golden_case(golden, number):
    case = golden("07c")["cases"][number]
    spec = case["metadata"]
    kept = keep(found_in(case), spec["tag"])
    assert {k: [[*d.box, d.score] for d in v] for k, v in kept.items()} == case["kept"]
    assert official(spec, kept, namer_of(case)) == case["official_correct"] == case["server_correct"]
    parts = terms(spec, kept, namer_of(case))
    assert strict(parts) == case["server_strict_correct"]
    assert server_score(parts) == pytest.approx(case["server_score"], abs=1e-12)
    assert 0 <= dense(parts) <= 1
    if all(t.value >= 0 for t in parts) and not any(t.kind == "position" and t.decided and not t.value for t in parts):
        assert dense(parts) == pytest.approx(case["server_score"], abs=1e-12)


@pytest.mark.parametrize("number", range(len(GOLDEN["pairs"])))
def test_golden_pair(golden, number):
    pair = golden("07c")["pairs"][number]
    a, b = Detection(tuple(pair["a"]), 1), Detection(tuple(pair["b"]), 1)
    assert relations(a, b) == set(pair["relations"]) and overlap(a, b) == pytest.approx(pair["iou"], abs=1e-12)


def test_golden_thresholds_are_the_defaults(golden):
    gold, ours = golden("07c")["thresholds"], Thresholds()
    assert (ours.confidence, ours.counting, ours.most, ours.overlap, ours.position) == (
        gold["confidence"], gold["counting_confidence"], gold["max_objects"], gold["nms_overlap"], gold["position"])


def test_duplicates_are_dropped_where_overlap_is_limited():
    twice = {"cat": [Detection((0, 0, 10, 10), 0.9), Detection((0, 0, 10, 11), 0.8), Detection((50, 0, 60, 10), 0.7)]}
    assert len(keep(twice, "")["cat"]) == 3 and len(keep(twice, "", Thresholds(overlap=0.5))["cat"]) == 2


def test_one_too_many_costs_as_much_as_one_too_few():
    spec = {"include": [{"class": "cat", "count": 1}]}
    box = Detection((0, 0, 9, 9), 0.95)
    values = [dense(terms(spec, {"cat": [box] * n}, None)) for n in (0, 1, 2, 9)]
    assert values == [0, 1, 0, 0]


def test_checked_record():
    good = {"tag": "position", "include": [{"class": "sink", "count": 1}, {"class": "tie", "count": 1, "position":
            ["above", 0]}], "exclude": [{"class": "tie", "count": 2}], "prompt": "a tie above a sink"}
    assert checked_spec(good, "line 1") == {k: v for k, v in good.items() if k != "prompt"}


@pytest.mark.parametrize("record, message", [
    ({"prompt": "x"}, 'needs "include"'),
    ({"prompt": "x", "include": [{"count": 1}]}, 'include 1 needs a "class"'),
    ({"prompt": "x", "include": [{"class": "a", "count": 0}]}, '"count" must be'),
    ({"prompt": "x", "include": [{"class": "a", "count": True}]}, '"count" must be'),
    ({"prompt": "x", "include": [{"class": "a", "count": 1, "color": "teal"}]}, '"color" must be one of red'),
    ({"prompt": "x", "include": [{"class": "a", "count": 1, "position": ["above", 0]}]}, '"position" must be'),
    ({"prompt": "x", "include": [{"class": "a", "count": 1, "position": ["near", 0]}]}, '"position" must be'),
    ({"prompt": "x", "exclude": [{"class": "a", "count": 0}]}, "exclude 1"),
])
def test_bad_record_is_named(record, message):
    with pytest.raises(ValueError, match="line 7.*" + message.replace("[", r"\[")):
        checked_spec(record, "line 7")
