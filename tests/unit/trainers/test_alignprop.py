"""AlignProp: its truncations, its target, its end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.through_reward import SMALL, STEPS, assert_close, dot, gradient, stepped
from posttrain.trainers import alignprop
from posttrain.trainers.alignprop import HIGHEST, AlignProp
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.update import SKIPPED
from posttrain.trainers.noise.streams import generator
from small_models import trained_policy


def test_alignprop_draws_its_truncation_and_is_draft_at_that_length():
    policy = trained_policy("sd3")
    sampling = replace(SMALL, steps=6)
    for iteration in range(3):
        new, _ = stepped(policy, "sd3", AlignProp(coefficient=1.0), sampling, iteration=iteration)
        count = int(new.metrics["backpropagated_steps"])
        same, _ = stepped(policy, "sd3", DRaFT(steps=count), sampling, iteration=iteration)
        assert_close(gradient(new), gradient(same))
    for kind, mean in (("gaussian", 8), ("uniform", 25.5)):
        counts = [alignprop._truncated(kind, 50, generator(i)) for i in range(2000)]
        assert min(counts) >= 1 and max(counts) <= 50 and sum(counts) / 2000 == pytest.approx(mean, abs=1.0)


def test_alignprop_pulls_back_from_beyond_its_target():
    policy = trained_policy("sd3")
    reward = stepped(policy, "sd3", DRaFT())[0].metrics["reward_mean"]
    up, down = (gradient(stepped(policy, "sd3", AlignProp(target=reward + d))[0]) for d in (1e4, -1e4))
    assert dot(up, down) == pytest.approx(-dot(up, up), rel=1e-6)


def test_alignprop_stops_early_and_goes_on_when_asked_for_more():
    policy = trained_policy("sd3")
    first, _ = stepped(policy, "sd3", AlignProp(stop_at=-1e6))
    assert first.step == 1 and first.metrics["early_stopped"] == 1
    assert stepped(policy, "sd3", AlignProp(stop_at=1e6))[0].metrics["early_stopped"] == 0
    rested, images = stepped(first, "sd3", AlignProp(stop_at=-1e6), iteration=1)
    assert rested.step == 1 and rested.metrics["early_stopped"] == 1 and rested.iteration == 2
    assert all(torch.equal(first.bank[k], rested.bank[k]) for k in first.bank)
    assert len(images) == 2 and rested.metrics["reward_mean"] != first.metrics["reward_mean"]
    assert rested.metrics["update_evaluations"] == 2 * 2 * STEPS
    assert stepped(rested, "sd3", AlignProp(stop_at=1e6), iteration=2)[0].step == 2
    rested = rested.metrics
    assert (rested["updates"], rested["skipped_updates"], rested[SKIPPED]) == (0, 0, 0)


def test_the_highest_mean_is_remembered_and_reaching_the_end_is_enough():
    policy, memory = trained_policy("sd3"), {"rewards": "kept"}
    for before, kept in ((None, False), (-1e9, False), (1e9, True)):
        start = replace(policy, memory=memory if before is None else {**memory, HIGHEST: before})
        new = stepped(start, "sd3", AlignProp())[0]
        mean = new.metrics["reward_mean"]
        assert new.memory == {**memory, HIGHEST: before if kept else mean} and new.metrics["early_stopped"] == 0
    exactly = stepped(policy, "sd3", AlignProp(stop_at=mean))[0]
    assert exactly.metrics["early_stopped"] == 1


def test_these_draws_stay_as_they_are():
    """A run that is taken up again goes on with the numbers that it would have drawn."""
    counts = [[alignprop._truncated(kind, 20, generator(i)) for i in range(8)] for kind in ("gaussian", "uniform")]
    assert counts == [[2, 3, 6, 3, 1, 3, 3, 2], [2, 15, 3, 10, 3, 20, 2, 11]]
    assert {alignprop._truncated("uniform", 3, generator(i)) for i in range(30)} == {1, 2, 3}
