"""Colour statistics as a reward."""

from __future__ import annotations

import pytest
import torch
from posttrain.rewards.base.reward import Prompt
from posttrain.rewards.rules.colour import AIMS, STATISTICS, ColourReward

NONE = [Prompt("")] * 5


def solid(*colour: float) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.float32).expand(1, 6, 6, 3).clone()


@pytest.mark.parametrize(
    "statistic, image, expected",
    [
        ("brightness", solid(1, 1, 1), 1.0),
        ("brightness", solid(0, 1, 0), 0.7152),
        ("contrast", solid(0.3, 0.3, 0.3), 0.0),
        ("contrast", torch.cat([solid(0, 0, 0), solid(1, 1, 1)], 1), 0.5),
        ("saturation", solid(0.8, 0.4, 0.4), 0.5),
        ("saturation", solid(0.5, 0.5, 0.5), 0.0),
        ("clipped pixels", solid(0, 0.5, 1), 2 / 3),
        ("colourfulness", solid(0.5, 0.5, 0.5), 0.0),
        # rg = 255, yb = 127.5 everywhere: no spread, 0.3 * |mean|
        ("colourfulness", solid(1, 0, 0), 0.3 * (255**2 + 127.5**2) ** 0.5),
        # half red, half green: rg = +-255 (std 255, mean 0), yb = 127.5 (std 0)
        ("colourfulness", torch.cat([solid(1, 0, 0), solid(0, 1, 0)], 1), 255 + 0.3 * 127.5),
    ],
)
def test_statistics_by_hand(statistic, image, expected):
    assert ColourReward(statistic)(image, NONE[:1]).item() == pytest.approx(expected, abs=1e-4)
    assert ColourReward(statistic, "less")(image, NONE[:1]).item() == pytest.approx(-expected, abs=1e-4)


@pytest.mark.parametrize("statistic", [s for s in STATISTICS if s != "clipped pixels"])
def test_colour_gradients_are_finite_even_on_a_single_colour_image(statistic):
    for image in (solid(0.5, 0.5, 0.5), solid(0, 0, 0), torch.rand(1, 5, 5, 3)):
        image = image.clone().requires_grad_()
        ColourReward(statistic)(image, NONE[:1]).sum().backward()
        assert torch.isfinite(image.grad).all()
    assert image.grad.abs().sum() > 0


def test_bounds_push_only_outside():
    reward = ColourReward("brightness", "inside bounds", 0.4, 0.6)
    levels = torch.cat([solid(v, v, v) for v in (0.1, 0.4, 0.5, 0.6, 0.9)]).requires_grad_()
    values = reward(levels, NONE)
    assert torch.allclose(values, torch.tensor([-0.3, 0, 0, 0, -0.3]), atol=1e-5)
    values.sum().backward()
    assert levels.grad[0].mean() > 0 and levels.grad[2].abs().sum() == 0 and levels.grad[4].mean() < 0
    assert reward.info.low == pytest.approx(-0.4) and reward.info.high == 0


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(statistic="warmth"), "statistic"),
        (dict(aim="most"), "aim"),
        (dict(aim="inside bounds", low=0.7, high=0.2), "low"),
    ],
)
def test_colour_refuses_wrong_settings(wrong, message):
    with pytest.raises(ValueError, match=message):
        ColourReward(**wrong)


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("aim", AIMS)
def test_stated_range_holds_on_extreme_images(statistic, aim):
    torch.manual_seed(0)
    corners = torch.rand(40, 3, 3, 3).round()
    reward = ColourReward(statistic, aim, 0.2, 0.4)
    values = reward(corners, [Prompt("")] * 40)
    assert values.min() >= reward.info.low - 1e-4 and values.max() <= reward.info.high + 1e-4
