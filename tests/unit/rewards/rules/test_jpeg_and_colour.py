"""JPEG (golden 07a), colour statistics, weighted sum, table."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from posttrain.rewards.base.labels import labelled, lines_of
from posttrain.rewards.base.pixels import to_uint8
from posttrain.rewards.base.report import headline, table
from posttrain.rewards.base.reward import Prompt, RewardInfo, score
from posttrain.rewards.composite.combine import WeightedSum
from posttrain.rewards.rules.colour import AIMS, STATISTICS, ColourReward
from posttrain.rewards.rules.jpeg import JPEGReward
from safetensors.torch import load_file

GOLDEN = Path(__file__).parents[3] / "golden"
NONE = [Prompt("")] * 5


class Constant:
    def __init__(self, value, low=0.0, high=1.0, prompt=False, grad=True, name="constant"):
        self.value, self.info = value, RewardInfo(name, low, high, prompt, grad, "")

    def __call__(self, images, prompts):
        return torch.as_tensor(self.value).expand(images.shape[0]).clone()


def test_jpeg_golden():
    gold = load_file(GOLDEN / "07a_jpeg_reward.safetensors")
    images = gold["in.images"].permute(0, 2, 3, 1)
    assert torch.equal(to_uint8(images).permute(0, 3, 1, 2), gold["out.images_uint8"])
    small, large = JPEGReward()(images, NONE), JPEGReward(small_is_good=False)(images, NONE)
    # other encoder builds may differ by a few bytes
    assert torch.allclose(small, gold["out.compressibility"], atol=0.01)
    assert torch.allclose(large, gold["out.incompressibility"], atol=0.01)
    flow_grpo = WeightedSum(((JPEGReward(), 1 / 500),))(images, NONE)
    assert torch.allclose(flow_grpo, gold["out.flow_grpo_compressibility"], atol=0.01 / 500)


def test_jpeg_bits_per_pixel_is_the_size_over_the_area():
    images = torch.rand(2, 16, 32, 3)
    kilobytes = JPEGReward(False)(images, NONE[:2])
    bits = JPEGReward(False, "bits per pixel")(images, NONE[:2])
    assert torch.allclose(bits, kilobytes * 1000 * 8 / (16 * 32))


def test_jpeg_prefers_the_smooth_image_and_one_pixel_works():
    smooth, noisy = torch.full((1, 32, 32, 3), 0.5), torch.rand(1, 32, 32, 3)
    values = JPEGReward()(torch.cat([smooth, noisy]), NONE[:2])
    assert values[0] > values[1]
    assert JPEGReward()(torch.zeros(1, 1, 1, 3), NONE[:1]) < 0


@pytest.mark.parametrize("wrong", [{"unit": "MB"}, {"quality": 0}, {"quality": 101}])
def test_jpeg_refuses_wrong_settings(wrong):
    with pytest.raises(ValueError, match="|".join(wrong)):
        JPEGReward(**wrong)


def solid(*colour: float) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.float32).expand(1, 6, 6, 3).clone()


@pytest.mark.parametrize("statistic, image, expected", [
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
])
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


@pytest.mark.parametrize("wrong, message", [
    (dict(statistic="warmth"), "statistic"), (dict(aim="most"), "aim"),
    (dict(aim="inside bounds", low=0.7, high=0.2), "low"),
])
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


def test_table_has_a_line_per_image_and_marks_failures():
    scores = score(WeightedSum(((Constant([0.5, torch.nan]), 1.0), (Constant(1.0, name="b"), 1.0))),
                   torch.zeros(2, 2, 2, 3), [Prompt("a\tcat"), Prompt("dog")], [0, 1])
    lines = [line.split("\t") for line in table(scores, [Prompt("a\tcat"), Prompt("dog")]).splitlines()]
    assert lines == [["image", "score", "constant", "b", "prompt"], ["1", "1.5", "0.5", "1", "a cat"],
                     ["2", "failed", "failed", "1", "dog"]]
    assert "1 of 2 could not be scored" in headline(scores)


def test_scores_are_written_under_their_images_best_first():
    images = torch.stack([torch.full((20, 30, 3), v) for v in (0.2, 0.9, 0.5)])
    total = WeightedSum(((Constant([1.0, torch.nan, 3.0]), 1.0), (Constant(0.5, name="a member with a very long name indeed"), 1.0)))
    scores = score(total, images, NONE[:3], [0, 0, 1])
    assert lines_of(scores, 0) == ["1: 1.5", "constant: 1", "a member with a very long name in\u2026: 0.5"]
    found = labelled(images, scores)
    assert found.shape[0] == 3 and found.shape[2] >= 288 and found.shape[1] > 200
    assert [round(f[5, 5, 0].item(), 1) for f in found] == [0.5, 0.2, 0.9]  # 3.5, 1.5, failed
    assert found[:, -12:].amax() > 0.5  # letters
    assert [round(f[5, 5, 0].item(), 1) for f in labelled(images, scores, False)] == [0.2, 0.9, 0.5]
    with pytest.raises(ValueError, match="2 images and 3 scores"):
        labelled(images[:2], scores)
