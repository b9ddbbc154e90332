"""Likeness to pictures, and to words, against open_clip's own embeddings."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from posttrain.rewards.base.reward import Prompt
from posttrain.rewards.images import UnreadableImage, read_image
from posttrain.rewards.learned import holder as holders
from posttrain.rewards.learned.clip import build_clip
from posttrain.rewards.learned.clip_rewards import ClipReward
from posttrain.rewards.learned.likeness import LikePictures, ShowsWords
from posttrain.rewards.learned.preprocess import Geometry, preprocess
from safetensors.torch import save_file

from ..networks import picture, tiny_open_clip


@pytest.fixture
def network(tmp_path):
    save_file({k: v.contiguous() for k, v in tiny_open_clip().state_dict().items()}, tmp_path / "clip.safetensors")
    return holders.Holder(lambda: build_clip(tmp_path / "clip.safetensors", "gelu"), "fp32")


def saved(tmp_path, seeds: tuple[int, ...]) -> list:
    files = [tmp_path / f"{seed}.png" for seed in seeds]
    for file, seed in zip(files, seeds):
        Image.fromarray((picture(60 + seed, 80, seed)[0].numpy() * 255).astype("uint8")).save(file)
    return files


def test_it_is_the_mean_of_open_clips_cosines(tmp_path, network):
    files, images = saved(tmp_path, (1, 2, 3)), torch.cat([picture(64, 64, seed) for seed in (4, 5)])
    theirs = tiny_open_clip()

    def embedded(pixels):
        return F.normalize(theirs.encode_image(preprocess(pixels, Geometry(56))), dim=-1)

    with torch.no_grad():
        each = torch.cat([embedded(read_image(file)) for file in files])
        expected = (embedded(images) @ each.T).mean(1)
    found = LikePictures(network, files, 1)(images, [Prompt("")] * 2)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_picture_is_most_like_itself_and_the_gradient_leads_to_it(tmp_path, network):
    files = saved(tmp_path, (1,))
    reward = LikePictures(network, files)
    pixels = picture(64, 64, 2).clone().requires_grad_()
    first = reward(pixels, [Prompt("")])
    (slope,) = torch.autograd.grad(first.sum(), pixels)
    nearer = reward((pixels + 1e-3 * slope / slope.abs().max()).detach(), [Prompt("")])
    assert first < nearer < reward(read_image(files[0]), [Prompt("")])
    assert reward(read_image(files[0]), [Prompt("")]).item() == pytest.approx(1, abs=1e-5)


def test_a_damaged_picture_is_named(tmp_path, network):
    (tmp_path / "torn.png").write_bytes(b"no picture")
    with pytest.raises(UnreadableImage, match="torn.png"):
        LikePictures(network, [tmp_path / "torn.png"])(picture(64, 64), [Prompt("")])


def test_words_are_asked_about_whatever_the_prompt(network):
    clip = ClipReward("CLIPScore", network, holders.clip_tokenizer_folder())
    images = torch.cat([picture(64, 64, seed) for seed in (1, 2)])
    expected = clip(images, [Prompt("blue sky")] * 2)
    found = ShowsWords(clip, "blue sky")(images, [Prompt("a dog"), Prompt("a cat")])
    assert torch.equal(found, expected) and not torch.equal(found, clip(images, [Prompt("a dog"), Prompt("a cat")]))
