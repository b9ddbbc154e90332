"""Sample grids."""
from __future__ import annotations

import pytest
import torch
from posttrain.trainers.run.samples import LARGEST, grid, save_samples


@pytest.mark.parametrize("shape", [(5, 24, 24, 3), (1, 24, 24, 3), (64, 32, 32, 3), (30, 700, 300, 3), (2, 8, 8, 1),
                                   (3, 1000, 4, 4)])
def test_sample_grid_is_readable_and_bounded(tmp_path, shape):
    from PIL import Image
    path = save_samples(torch.rand(shape) * 3 - 1, tmp_path, 10)
    assert path.name.startswith("iteration_000010.")
    with Image.open(path) as picture:
        assert 96 <= max(picture.size) <= LARGEST
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_sample_grid_shows_the_images_in_order():
    images = torch.zeros(4, 2, 2, 3)
    for i in range(4):
        images[i, ..., i % 3] = 1.0
    sheet = grid(images)
    step = sheet.size[0] // 2 + 1
    corners = [sheet.getpixel((x + 40, y + 40)) for y in (0, step) for x in (0, step)]
    assert corners == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 0)]
