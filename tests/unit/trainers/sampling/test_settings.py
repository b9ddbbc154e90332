"""Sampling settings: their limits and their windows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from posttrain.tests.unit.trainers.rollouts import SMALL
from posttrain.trainers.sampling.settings import WINDOWS, noisy_range


@pytest.mark.parametrize("setting", ["steps", "images_per_prompt", "batch_size"])
def test_settings_below_their_least_value_are_named(setting):
    with pytest.raises(ValueError, match=setting):
        replace(SMALL, **{setting: 0})


@pytest.mark.parametrize("setting", ["noise_level", "guidance"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_numbers_that_nothing_can_be_sampled_with_are_named(setting, value):
    with pytest.raises(ValueError, match=f"{setting}: .* choose 0 or more"):
        replace(SMALL, **{setting: value})


def test_windows_stay_inside_the_steps():
    for window in WINDOWS:
        settings = replace(SMALL, steps=10, noisy_steps=3, window=window)
        ranges = [noisy_range(settings, i) for i in range(40)]
        assert all(0 <= a < b <= 9 and b - a == 3 for a, b in ranges)
        assert (len(set(ranges)) > 1) == (window != "fixed")
        if window == "random in the first half":
            assert {a for a, _ in ranges} == {0, 1, 2}


def test_a_slow_window_stays_for_25_iterations_and_comes_round_again():
    settings = replace(SMALL, steps=6, noisy_steps=3, window="moves along slowly")
    starts = [noisy_range(settings, i)[0] for i in range(100)]
    assert starts == [0] * 25 + [1] * 25 + [2] * 25 + [0] * 25
