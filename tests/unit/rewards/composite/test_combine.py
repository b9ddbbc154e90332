"""Weighted sums of rewards."""

from __future__ import annotations

import pytest
import torch
from posttrain.rewards.base.reward import Prompt, score
from posttrain.rewards.composite.combine import WeightedSum
from posttrain.rewards.rules.colour import ColourReward

from ..constant import Constant

NONE = [Prompt("")] * 5


def test_weighted_sum_adds_shows_members_and_knows_its_range():
    total = WeightedSum(((Constant(0.5), 2.0), (Constant(0.25, -1, 1, grad=False), -4.0)))
    scores = score(total, torch.zeros(3, 2, 2, 3), NONE[:3], [0, 0, 1])
    assert scores.values.tolist() == [0.0] * 3
    assert {k: v.tolist() for k, v in scores.members.items()} == {"constant": [0.5] * 3, "constant 2": [0.25] * 3}
    assert scores.weights == {"constant": 2.0, "constant 2": -4.0}
    assert (total.info.low, total.info.high, total.info.differentiable) == (-4, 6, False)
    unbounded = WeightedSum(((Constant(0.5, None, 0.0), -1.0),)).info
    assert (unbounded.low, unbounded.high) == (0, None)


def test_a_failed_member_fails_the_sum_unless_its_weight_is_zero():
    failing = Constant([1.0, torch.nan, 1.0])
    images, prompts = torch.zeros(3, 2, 2, 3), NONE[:3]
    assert score(WeightedSum(((failing, 1.0), (Constant(1.0), 1.0))), images, prompts, [0, 0, 0]).stats["failed"] == 1
    watched = score(WeightedSum(((failing, 0.0), (Constant(1.0), 1.0))), images, prompts, [0, 0, 0])
    assert watched.stats["failed"] == 0 and watched.members["constant"].isnan()[1]


def test_sum_of_sums_shows_what_is_inside():
    inner = WeightedSum(((Constant(1.0, name="a"), 1.0), (Constant(2.0, name="b"), 1.0)))
    scores = score(WeightedSum(((inner, 1.0), (Constant(3.0, name="c"), 1.0))), torch.zeros(1, 2, 2, 3), NONE[:1], [0])
    name = inner.info.name
    assert scores.values.tolist() == [6.0] and set(scores.members) == {name, f"{name} / a", f"{name} / b", "c"}


def test_sum_keeps_gradients():
    images = torch.rand(2, 4, 4, 3, requires_grad=True)
    WeightedSum(((ColourReward("brightness"), 2.0), (ColourReward("contrast"), 1.0)))(images, NONE[:2]).sum().backward()
    assert images.grad.abs().sum() > 0


def test_empty_sum_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        WeightedSum(())
