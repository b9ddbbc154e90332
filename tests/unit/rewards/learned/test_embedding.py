"""Features of pictures: the same whatever batch, size or file they come by, and with the distances that belong to the network."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from posttrain.nodes.sampling.distance import CLIP, INCEPTION, embedding_of
from posttrain.rewards.base.distances import MEASURES
from posttrain.rewards.images import UnreadableImage
from posttrain.rewards.learned.clip import build_clip
from posttrain.rewards.learned.embedding import clip_embedding
from posttrain.rewards.learned.holder import Holder
from safetensors.torch import save_file

from ..networks import picture, tiny_open_clip
from .test_inception import weights

IMAGES = torch.cat([picture(60, 60, seed) for seed in range(5)])


@pytest.fixture
def clip_file(models):
    (models / "clip_vision").mkdir()
    path = models / "clip_vision" / "clip-vit-large-patch14.safetensors"
    save_file({name: value.contiguous() for name, value in tiny_open_clip().state_dict().items()}, path)
    return path


def test_the_tower_alone_and_the_whole_clip_give_the_same(clip_file):
    alone, whole = embedding_of(CLIP, "auto", "fp32", [], 2), clip_embedding(Holder(lambda: build_clip(clip_file), "fp32"))
    found = alone.of(IMAGES)
    assert found.shape == (5, 48) and found.dtype == torch.float32
    torch.testing.assert_close(found, whole.of(IMAGES), rtol=1e-4, atol=1e-5)
    assert {each.name for each in alone.distances(found[:2], found[2:])} == {f"{name} (CLIP)" for name in MEASURES}


def test_gradients_are_not_kept(clip_file):
    assert not embedding_of(CLIP, "auto", "fp32", [], 2).of(IMAGES.clone().requires_grad_()).requires_grad


def test_pictures_of_any_size_are_read_one_at_a_time(clip_file, tmp_path):
    files = [tmp_path / f"{side}.png" for side in (40, 90)]
    for file in files:
        side = int(file.stem)
        Image.fromarray((picture(side, 60)[0].numpy() * 255).astype("uint8")).save(file)
    found = embedding_of(CLIP, "auto", "fp32", files, 2)
    assert found.of_pictures().shape == (2, 48)
    files[1].write_bytes(b"no picture")
    with pytest.raises(UnreadableImage, match="90.png"):
        found.of_pictures()


def test_inception_measures_fid_and_kid_under_their_own_names(models):
    (models / "reward_models").mkdir()
    save_file(weights(), models / "reward_models" / "pt_inception-2015-12-05.safetensors")
    features = embedding_of(INCEPTION, "auto", "fp32", [], 2)
    found = features.of(IMAGES[:3])
    assert found.shape == (3, 2048)
    assert [each.name for each in features.distances(found, found.flip(0) + 1)] == ["FID", "KID"]
