"""The size of a JPEG as a reward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from posttrain.rewards.base.pixels import to_uint8
from posttrain.rewards.base.reward import Prompt
from posttrain.rewards.composite.combine import WeightedSum
from posttrain.rewards.rules.jpeg import JPEGReward
from safetensors.torch import load_file

GOLDEN = Path(__file__).parents[3] / "golden"
NONE = [Prompt("")] * 5


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
