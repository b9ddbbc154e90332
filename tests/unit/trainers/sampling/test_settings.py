"""Sampling settings: their limits and their windows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.rollouts import SMALL
from posttrain.trainers.noise.streams import Stream, generator
from posttrain.trainers.sampling.settings import BRANCHES, EACH_PROMPT, WINDOWS, Sampling, noisy_range, resolved_transition


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
        assert (len(set(ranges)) > 1) == (window not in ("fixed", EACH_PROMPT, BRANCHES))
        if window == "random in the first half":
            assert {a for a, _ in ranges} == {0, 1, 2}


def test_a_slow_window_stays_for_25_iterations_and_comes_round_again():
    settings = replace(SMALL, steps=6, noisy_steps=3, window="moves along slowly")
    starts = [noisy_range(settings, i)[0] for i in range(100)]
    assert starts == [0] * 25 + [1] * 25 + [2] * 25 + [0] * 25


LEAST = {"steps": 1, "prompts_per_iteration": 1, "images_per_prompt": 1, "batch_size": 1}
LEAST |= {"first_noisy_step": 0, "noisy_steps": 0, "noise_level": 0, "guidance": 0}


@pytest.mark.parametrize("setting, least", LEAST.items())
def test_the_least_value_is_possible_and_none_below(setting, least):
    assert getattr(replace(SMALL, **{setting: least}), setting) == least
    for below in (least - 1, least - 0.01):
        with pytest.raises(ValueError, match=f"{setting}: {below} is not possible; choose {least} or more"):
            replace(SMALL, **{setting: below})


@pytest.mark.parametrize(
    "chosen, level, path, expected",
    [
        ("auto", 0.0, "flow", ("flow_sde", 0.7)),
        ("auto", 0.3, "flow", ("flow_sde", 0.3)),
        ("auto", 0.0, "eps", ("ddim", 1.0)),
        ("auto", 0.0, "v", ("ddim", 1.0)),
        ("auto", 0.5, "v", ("ddim", 0.5)),
        ("dance_sde", 0.0, "flow", ("dance_sde", 0.0)),
        ("flow_cps", 0.8, "flow", ("flow_cps", 0.8)),
    ],
)
def test_what_the_automatic_transition_is(chosen, level, path, expected):
    assert resolved_transition(Sampling(transition=chosen, noise_level=level), path) == expected


@pytest.mark.parametrize(
    "first, count, payable, expected",
    [
        (0, 0, None, (0, 9)),
        (0, 3, None, (0, 3)),
        (2, 0, None, (2, 9)),
        (4, 3, None, (4, 7)),
        (7, 5, None, (7, 9)),
        (8, 1, None, (8, 9)),
        (0, 0, (2, 7), (2, 7)),
        (0, 2, (2, 7), (2, 4)),
        (4, 2, (2, 7), (4, 6)),
        (6, 2, (2, 7), (6, 7)),
    ],
)
def test_a_fixed_window(first, count, payable, expected):
    assert noisy_range(Sampling(steps=10, first_noisy_step=first, noisy_steps=count), 3, payable) == expected


@pytest.mark.parametrize("first, payable", [(9, None), (7, (2, 7)), (0, (0, 0))])
def test_a_window_without_a_step_is_refused(first, payable):
    with pytest.raises(ValueError, match=f"first noisy step: {first} leaves no step to train with 10 steps of 'simple'"):
        noisy_range(Sampling(steps=10, first_noisy_step=first), 0, payable)


# window, first noisy step, noisy steps, payable, places where it may begin beside the first
MOVING = [
    ("random each iteration", 0, 3, None, 6),
    ("random each iteration", 2, 3, None, 4),
    ("random each iteration", 0, 3, (1, 8), 4),
    ("random each iteration", 0, 9, None, 0),
    ("random in the first half", 0, 3, None, 2),
    ("random in the first half", 1, 3, None, 1),
    ("random in the first half", 0, 6, None, 0),
    ("moves along", 0, 3, None, 6),
    ("moves along", 2, 3, (1, 8), 3),
    ("moves along", 5, 4, None, 0),
    ("moves along slowly", 0, 3, None, 6),
]


@pytest.mark.parametrize("window, first, count, payable, room", MOVING)
def test_a_moving_window_begins_where_its_draw_or_the_iteration_says(window, first, count, payable, room):
    """These draws stay as they are: a run that is taken up again goes on with the windows that it would have drawn."""
    settings = Sampling(steps=10, first_noisy_step=first, noisy_steps=count, window=window, seed=5)
    least = max(first, payable[0] if payable else 0)
    for iteration in range(0, 200, 3):
        drawn = int(torch.randint(room + 1, (), generator=generator(5, iteration, Stream.WINDOW)))
        moved = iteration // (25 if "slowly" in window else 1) % (room + 1)
        begin = least + (drawn if window.startswith("random") else moved)
        assert noisy_range(settings, iteration, payable) == (begin, begin + count)
