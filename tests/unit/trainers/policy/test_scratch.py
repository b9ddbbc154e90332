"""Large values in ComfyUI's temporary folder: what was put there, for as long as somebody holds it."""

from __future__ import annotations

import gc
from pathlib import Path

import folder_paths
import pytest
import torch
from posttrain.trainers.policy import latents as decoding
from posttrain.trainers.policy.latents import image_bytes, to_images
from posttrain.trainers.policy.scratch import free_ram, mapped
from small_models import small_vae, trained_policy


@pytest.fixture
def temp(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    return lambda: [path for path in Path(tmp_path).rglob("*") if path.is_file()]


def test_parts_become_one_tensor_of_a_file(temp):
    parts = torch.randn(7, 5, 3).split(2)
    with torch.inference_mode():
        found = mapped(parts, 7 * 5 * 3 * 4, "x")
    assert torch.equal(found, torch.cat(parts)) and not found.is_inference() and len(temp()) == 1
    view = found[1:3]
    del found
    gc.collect()
    assert torch.equal(view, torch.cat(parts)[1:3])
    before = temp()[0].read_bytes()
    view.zero_()
    assert temp()[0].read_bytes() == before, "whoever writes into it writes for himself"
    del view
    gc.collect()
    assert not temp()


def test_nothing_is_left_of_what_was_broken_off(temp):
    def parts():
        yield torch.zeros(2, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mapped(parts(), 100, "x")
    assert not temp()


def test_without_room_on_the_disk_it_stays_in_ram(temp, caplog):
    assert torch.equal(mapped([torch.ones(1, 2), torch.zeros(1, 2)], 10**17, "images"), torch.tensor([[1.0, 1], [0, 0]]))
    assert not temp() and "images stay in memory: they take" in caplog.text


def test_many_images_are_decoded_in_parts_into_a_file(temp, monkeypatch):
    model, vae = trained_policy("sd15").model, small_vae("sd15")
    latents = torch.randn(2 * decoding.PART + 1, 4, 8, 8)
    whole = to_images(model, vae, latents)
    assert whole.nbytes == image_bytes(vae, latents.shape) and not temp()
    monkeypatch.setattr(decoding, "LARGE", whole.nbytes - 1)
    parts = to_images(model, vae, latents)
    assert len(temp()) == 1 and parts.shape == whole.shape
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


def test_some_ram_is_free():
    assert 2**20 < free_ram() < 2**50
