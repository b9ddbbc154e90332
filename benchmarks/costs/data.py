"""What large data leaves in memory: 20,000 prompts and 100,000 pairs, 2,000 iterations of each, and how long it takes to read them."""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from tools import pack

from . import Measure

PROMPTS, PAIRS, ITERATIONS = 20_000, 100_000, 2_000
TEXT = (1, 77, 512)  # of an encoding: 158 KB
SETTLED = ITERATIONS // 10  # after so many iterations nothing new is loaded any more


def measure() -> list[Measure]:
    pack.module("toy.models", host=True)
    import folder_paths

    with tempfile.TemporaryDirectory() as base:
        folder_paths.set_temp_directory(base)
        return [*prompts(), *pairs(Path(base) / "pairs.parquet")]


def megabytes() -> float:
    return psutil.Process().memory_info().rss / 2**20


def prompts() -> list[Measure]:
    """Each iteration draws 8, as a rollout does."""
    draws = pack.module("trainers.sampling.draws")
    settings = pack.module("trainers.sampling.settings").Sampling(prompts_per_iteration=8)
    encodings = pack.module("trainers.policy.encodings").Encodings(
        [f"prompt {i}" for i in range(PROMPTS)],
        lambda text: [[torch.full(TEXT, float(hash(text) % 997)), {"pooled_output": None}]],
    )
    before, seen, begun = megabytes(), [], time.monotonic()
    for iteration in range(ITERATIONS):
        picks = draws.chosen_prompts(PROMPTS, settings, iteration)
        encodings.prepare(picks, draws.coming_prompts(PROMPTS, settings, iteration))
        seen.append(megabytes())
    seconds = time.monotonic() - begun
    held = PROMPTS * 4 * torch.Size(TEXT).numel() / 2**20
    return [
        Measure("growth over 2,000 iterations of 20,000 prompts", max(seen[SETTLED:]) - seen[SETTLED], "MB", 20),
        Measure("memory that they take", max(seen) - before, "MB", 150, f"all encodings: {held:,.0f} MB"),
        Measure("keeping and reading encodings, an iteration", 1000 * seconds / ITERATIONS, "ms", None, "8 prompts"),
    ]


def pairs(file: Path) -> list[Measure]:
    """A .parquet file as Pick-a-Pic's, of one group of rows; each iteration draws 16."""
    table_of_pairs(file)
    data, encoded = pack.module("trainers.data.files"), pack.module("trainers.data.encoded")
    policy, frame = _policy(), pack.module("trainers.data.images").Frame(32, 32)
    before, begun = megabytes(), time.monotonic()
    rows = data.read_file(file, PAIRS)
    read, peak = time.monotonic() - begun, megabytes()
    made = encoded.encode(rows, frame, _latent, lambda texts: texts)
    after = megabytes()
    seen = []
    for iteration in range(ITERATIONS):
        encoded.deal(made, policy, iteration, 16, 0, 4)
        seen.append(megabytes())
    assert len(made) == PAIRS
    return [
        Measure("growth over 2,000 iterations of 100,000 pairs", max(seen[SETTLED:]) - seen[SETTLED], "MB", 20),
        Measure(
            "memory that they take",
            max(peak, after, *seen) - before,
            "MB",
            300,
            f"the file: {file.stat().st_size / 2**20:,.0f} MB, latents: {made.latents.bytes / 2**20:,.0f} MB",
        ),
        Measure("reading 100,000 pairs", read, "s", None),
    ]


def table_of_pairs(file: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    kinds = {"jpg_0": pyarrow.binary(), "jpg_1": pyarrow.binary(), "label_0": pyarrow.float64(), "caption": pyarrow.string()}
    with pyarrow.parquet.ParquetWriter(file, pyarrow.schema(kinds)) as writer:
        for first in range(0, PAIRS, 10_000):
            numbers = range(first, first + 10_000)
            columns = [
                [_jpg(i, 200) for i in numbers],
                [_jpg(i, 50) for i in numbers],
                [1.0] * len(numbers),
                [f"picture {i % 5_000}" for i in numbers],
            ]
            writer.write_table(pyarrow.table(dict(zip(kinds, columns)), schema=pyarrow.schema(kinds)))


def _jpg(number: int, red: int) -> bytes:
    from PIL import Image

    data = io.BytesIO()
    Image.new("RGB", (32, 32), (red, number % 256, number // 256 % 256)).save(data, "JPEG")
    return data.getvalue()


def _latent(pixels: torch.Tensor) -> torch.Tensor:
    """In place of a VAE: [1, 32, 32, 3] -> [1, 4, 8, 8]."""
    return pixels.movedim(-1, 1)[:, :1, ::4, ::4].repeat(1, 4, 1, 1)


def _policy() -> Any:
    """The demo's, whose latents are said to have four channels."""
    from types import SimpleNamespace

    model = pack.module("toy.models").load_model("flow")
    form = SimpleNamespace(latent_format=SimpleNamespace(latent_channels=4))
    return SimpleNamespace(model=SimpleNamespace(model=form, get_model_object=model.get_model_object))
