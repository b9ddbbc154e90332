"""From scores to pairs, and what pairs and thumbs refuse alike."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from posttrain.trainers.feedback.labels import LABEL_RULES, labels
from posttrain.trainers.feedback.pairs import PAIR_RULES, preferences

F64 = torch.float64


def scores(values, groups):
    return SimpleNamespace(values=torch.as_tensor(values, dtype=F64), groups=torch.as_tensor(groups))


def pairs(p):
    return list(zip(p.winner.tolist(), p.loser.tolist()))


@pytest.mark.parametrize("std", [0, 1])
def test_best_and_worst_golden_but_for_its_random_label(golden, std):
    """Flow-GRPO's online DPO: +1 best, -1 worst; a group of equals gets images 1 and 0, where we skip."""
    file = golden("01b")
    r, groups = file["in.rewards"][:, 0], file["in.prompt_id"]
    p = preferences(scores(r, groups))
    ours = torch.zeros(len(r), dtype=F64)
    ours[p.winner], ours[p.loser] = 1.0, -1.0
    equal = torch.tensor([bool((r[groups == g] == r[groups == g][0]).all()) for g in groups])
    assert equal.any() and torch.equal(ours[~equal], file[f"out.dpo_globalstd{std}"][~equal])
    assert not ours[equal].any() and file[f"out.dpo_globalstd{std}"][equal].any()
    assert p.stats["skipped_groups"] == groups[equal].unique().numel()


def test_all_pairs_and_margins():
    s = scores([0.1, 0.5, 0.5, 0.9, 3.0, 1.0], [0, 0, 0, 0, 1, 1])
    p = preferences(s, "all pairs")
    assert pairs(p) == [(1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (4, 5)]
    torch.testing.assert_close(p.margin, torch.tensor([0.4, 0.4, 0.8, 0.4, 0.4, 2.0], dtype=F64))
    assert p.groups.tolist() == [0, 0, 0, 0, 0, 1]
    wide = preferences(s, "all pairs", least_margin=0.5)
    assert pairs(wide) == [(3, 0), (4, 5)]
    assert pairs(preferences(s, "all pairs", least_margin=2.0)) == [], "a margin must be exceeded"
    none = preferences(s, "best and worst", least_margin=5)
    assert pairs(none) == [] and none.stats == {"pairs": 0, "groups": 2, "skipped_groups": 2, "failed": 0}


def test_above_and_below_a_threshold():
    p = preferences(scores([0.1, 0.5, 0.4, 0.9], [0, 0, 0, 0]), "above and below", threshold=0.5)
    assert pairs(p) == [(1, 0), (1, 2), (3, 0), (3, 2)]


@pytest.mark.parametrize("rule", PAIR_RULES)
def test_failed_scores_and_rounding_make_no_pairs(rule):
    s = scores([math.nan, 0.4, 0.6, math.inf, 0.5, 0.5 + 1e-9, math.nan, 0.2], [0, 0, 0, 0, 1, 1, 2, 2])
    p = preferences(s, rule)
    assert pairs(p) == [(2, 1)] and p.stats["failed"] == 3 and p.stats["skipped_groups"] == 2


def test_equal_or_failed_batches_give_nothing():
    for value in (0.3, math.nan):
        s = scores([value] * 4, [0, 0, 1, 1])
        assert all(len(preferences(s, rule).winner) == 0 for rule in PAIR_RULES)
        assert len(labels(s).index) == 0


def test_errors_name_the_remedy():
    single = scores([0.1, 0.2], [0, 1])
    with pytest.raises(ValueError, match="images"):
        preferences(single)
    with pytest.raises(ValueError, match="threshold"):
        labels(single)
    with pytest.raises(ValueError, match=PAIR_RULES[0]):
        preferences(single, "median")
    with pytest.raises(ValueError, match=LABEL_RULES[0]):
        labels(single, "median")
    with pytest.raises(ValueError, match="least_margin"):
        preferences(single, least_margin=-1)
    for rule in (preferences, labels):
        with pytest.raises(ValueError, match="threshold: it is not a number"):
            rule(scores([0.1, 0.2], [0, 0]), threshold=math.nan)
    with pytest.raises(ValueError, match="groups"):
        labels(scores([0.1], [0, 1]))


def test_nothing_of_a_rewards_graph_comes_along():
    s = scores([0.1, 0.9, 0.4], [0, 0, 0])
    s.values.requires_grad_()
    assert not preferences(s).margin.requires_grad and len(labels(s).index) == 3
