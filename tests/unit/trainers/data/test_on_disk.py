"""Pairs whose images and latents lie on the disk: the rows that are asked for, and no RAM for the others."""

from __future__ import annotations

import gc
import io
from types import SimpleNamespace

import numpy
import psutil
import pytest
import torch
from PIL import Image
from posttrain.trainers.data.encoded import deal, encode
from posttrain.trainers.data.files import read_file
from posttrain.trainers.data.images import Frame
from posttrain.trainers.data.on_disk import ImageStore, StoredLatents
from posttrain.trainers.data.rows import Picture

COUNT, SIDE = 1_000, 96


def latents_of(count: int) -> tuple[StoredLatents, torch.Tensor]:
    values = torch.randn(count, 4, 3, 5, generator=torch.Generator().manual_seed(1))
    stored = StoredLatents()
    assert [stored.add(each[None]) for each in values] == list(range(count))
    return stored, values.half()


def test_latents_are_read_by_their_rows():
    stored, values = latents_of(9)
    rows = torch.tensor([8, 0, 3, 3, -1])
    assert stored.shape == values.shape and len(stored) == 9 and stored.bytes == 9 * 4 * 3 * 5 * 2
    assert torch.equal(stored[rows], values[rows]) and stored[rows].dtype == torch.float16
    with pytest.raises(IndexError):
        stored[torch.tensor([9])]
    with torch.inference_mode(), torch.inference_mode(False):
        assert not stored[rows].is_inference()


def test_latents_that_were_taken_away_or_find_no_room_are_named():
    stored, _ = latents_of(2)
    with pytest.raises(ValueError, match="need .* GB in ComfyUI's temporary folder, and .* GB are free"):
        stored.check_room(10**13)
    stored.check_room(2)
    stored._file.write_bytes(b"short")
    with pytest.raises(ValueError, match="cannot be read any more"):
        stored[torch.tensor([1])]
    stored._file.unlink()
    stored._file.mkdir()
    with pytest.raises(ValueError, match="cannot be read any more"):
        stored[torch.tensor([0])]
    with pytest.raises(ValueError, match="cannot be put into ComfyUI's temporary folder"):
        stored.add(torch.zeros(1, 4, 3, 5))


def test_images_of_a_store_are_its_bytes_and_go_with_the_last_of_them():
    store = ImageStore()
    first, second, third = (Picture(name, stored=store.put(name.encode())) for name in ("one", "three", "eno"))
    assert [each.read() for each in (third, first, second)] == [b"eno", b"one", b"three"]
    assert (
        not first.same_file(second) and not first.same_file(third) and first.same_file(Picture("x", stored=store.put(b"one")))
    )
    folder = store._file.parent
    del store, second, third
    gc.collect()
    assert folder.exists() and first.read() == b"one"
    del first
    gc.collect()
    assert not folder.exists()


def noise(number: int) -> bytes:
    """A picture that is as large a file as it has pixels: 27 KB."""
    pixels = numpy.random.default_rng(number).integers(0, 255, (SIDE, SIDE, 3), numpy.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "BMP")
    return data.getvalue()


def latent(image: torch.Tensor) -> torch.Tensor:
    """In place of a VAE's."""
    return image.movedim(-1, 1)[:, :1, ::8, ::8].repeat(1, 4, 1, 1)


def policy():
    sampling = SimpleNamespace(sigmas=torch.linspace(0.01, 10, 1000), sigma_min=0.01, sigma_max=10.0)
    model = SimpleNamespace(latent_format=SimpleNamespace(latent_channels=4))
    return SimpleNamespace(model=SimpleNamespace(model=model, get_model_object=lambda name: sampling))


def test_a_table_is_read_encoded_and_dealt_in_little_ram(tmp_path):
    """One group of rows, as most programs write it: read as a whole it would be all of the file."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    images = {"jpg_0": [noise(2 * i) for i in range(COUNT)], "jpg_1": [noise(2 * i + 1) for i in range(COUNT)]}
    table = pyarrow.table({**images, "label_0": [1.0] * COUNT, "caption": [f"p {i % 10}" for i in range(COUNT)]})
    parquet.write_table(table, tmp_path / "p.parquet", row_group_size=COUNT, use_dictionary=False, write_batch_size=16)
    expected = images["jpg_1"][COUNT - 1]
    del table, images
    gc.collect()
    pyarrow.default_memory_pool().release_unused()
    size = (tmp_path / "p.parquet").stat().st_size / 2**20
    assert size > 50 and parquet.ParquetFile(tmp_path / "p.parquet").num_row_groups == 1

    process, seen = psutil.Process(), []
    note = lambda: seen.append(process.memory_info().rss / 2**20)  # noqa: E731
    note()
    data = read_file(tmp_path / "p.parquet", COUNT)
    note()
    made = encode(data, Frame(SIDE, SIDE), latent, lambda texts: texts)
    note()
    for iteration in range(60):
        rollout, _ = deal(made, policy(), iteration, 8, 0, 4)
        note()
    assert max(seen) - seen[0] < size / 2
    assert len(made) == COUNT and data.rows[-1].loser.read() == expected
    assert torch.equal(rollout.latents, latent(rollout.images).half().float()), (
        "the latents are those of the images beside them"
    )
