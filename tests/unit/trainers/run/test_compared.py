"""Held-out pictures one by one: what is kept is what comes back, and a damaged file is said in words."""

from __future__ import annotations

import zipfile

import pytest
import torch
from posttrain.trainers.run.compared import MOST, keep_compared, kept_compared, read_compared


def pictures(count: int, side: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (count, side, side + 4, 3), generator=torch.Generator().manual_seed(3)) / 255


def test_small_pictures_come_back_as_they_were_and_only_the_newest_and_those_before_training_are_kept(tmp_path):
    images = pictures(3)
    for iteration in (0, 10, 20):
        keep_compared(tmp_path, iteration, images * (1 + iteration) / 21, ["a", "a", "ein Bär"])
    assert kept_compared(tmp_path) == [0, 20]
    found = read_compared(tmp_path, 20)
    assert found.iteration == 20 and found.texts == ("a", "a", "ein Bär")
    assert torch.allclose(torch.stack(found.images), images, atol=1e-6)


def test_large_pictures_are_kept_nearly_as_they_were_in_less_room(tmp_path):
    smooth = torch.linspace(0, 1, 300)[None, :, None, None].expand(1, 300, 280, 3)
    path = keep_compared(tmp_path, 0, smooth, ["a"])
    assert (read_compared(tmp_path, 0).images[0] - smooth[0]).abs().mean() < 0.01
    assert path.stat().st_size < 300 * 280 * 3 / 10


def test_as_many_as_there_are_prompts_for_and_no_more_than_the_most(tmp_path):
    keep_compared(tmp_path, 0, pictures(MOST + 5), ["a"] * (MOST + 5))
    assert len(read_compared(tmp_path, 0).images) == MOST
    keep_compared(tmp_path, 0, pictures(5), ["a", "b"])
    assert len(read_compared(tmp_path, 0).images) == 2


def test_grey_pictures_are_shown_grey(tmp_path):
    keep_compared(tmp_path, 0, pictures(1)[..., :1], ["a"])
    (image,) = read_compared(tmp_path, 0).images
    assert torch.equal(image[..., 0], image[..., 2])


def test_a_missing_cut_or_strange_file_is_said(tmp_path):
    with pytest.raises(ValueError, match="its held-out pictures of iteration 5 cannot be read"):
        read_compared(tmp_path, 5)
    path = keep_compared(tmp_path, 5, pictures(2), ["a", "b"])
    whole = path.read_bytes()
    strange = {"cut": whole[: len(whole) // 2], "empty": b"", "no zip": b"x" * 999}
    for content in strange.values():
        path.write_bytes(content)
        with pytest.raises(ValueError, match="its held-out pictures of iteration 5 cannot be read"):
            read_compared(tmp_path, 5)
    for texts in ('["a", "b", "c"]', '{"a": 1}', "[1]", "nothing", "[" + '"a",' * 99 + '"a"]'):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("prompts.json", texts)
            file.writestr("000", b"no picture")
        with pytest.raises(ValueError, match="its held-out pictures of iteration 5 cannot be read"):
            read_compared(tmp_path, 5)
