"""Held-out pictures in full size, one by one, for whoever compares them blind: those before training, and the newest.

samples/compared_<iteration>.zip holds the pictures and prompts.json, their prompts. Of a training only two such files are kept.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...rewards.base.files import written_whole
from ...rewards.base.pixels import to_uint8
from ...rewards.base.words import brief
from ...rewards.images import read_image

MOST = 50  # pictures of a file
SMALL = 256  # pixels: smaller pictures are kept exactly
QUALITY = 95
LARGEST = 1 << 26  # bytes of a picture's file that are read
TEXTS = "prompts.json"
NAME = re.compile(r"compared_([0-9]{1,9})\.zip")


@dataclass(frozen=True)
class Compared:
    """Pictures [H, W, 3] of one iteration, 0 before training, with their prompts. As many prompts as pictures."""

    iteration: int
    texts: tuple[str, ...]
    images: tuple[Tensor, ...]
    __repr__ = brief


def keep_compared(folder: Path, iteration: int, images: Tensor, texts: Sequence[str]) -> Path:
    """images [N, H, W, 3] in [0, 1] of a run's folder; those of other iterations but 0 go. Raises OSError."""
    path = folder / "samples" / f"compared_{iteration:06d}.zip"
    count = min(len(images), len(texts), MOST)
    with written_whole(path) as beside, zipfile.ZipFile(beside, "w") as file:
        for number in range(count):
            file.writestr(f"{number:03d}", _encoded(images[number, ..., :3]))
        file.writestr(TEXTS, json.dumps(list(texts[:count])))
    for other in kept_compared(folder):
        if other not in (0, iteration):
            _path(folder, other).unlink(missing_ok=True)
    return path


def kept_compared(folder: Path) -> list[int]:
    """The iterations that there are pictures of, in order."""
    place = folder / "samples"
    names = [path.name for path in place.iterdir()] if place.is_dir() else []
    return sorted(int(found.group(1)) for found in map(NAME.fullmatch, names) if found)


def read_compared(folder: Path, iteration: int) -> Compared:
    """ValueError where the file is missing or damaged."""
    with _opened(folder, iteration) as (file, texts):
        images = tuple(read_image(io.BytesIO(_part(file, f"{number:03d}")))[0] for number in range(len(texts)))
    return Compared(iteration, texts, images)


def compared_texts(folder: Path, iteration: int) -> tuple[str, ...]:
    """The prompts alone. ValueError as above."""
    with _opened(folder, iteration) as (_, texts):
        return texts


@contextmanager
def _opened(folder: Path, iteration: int) -> Iterator[tuple[zipfile.ZipFile, tuple[str, ...]]]:
    try:
        with zipfile.ZipFile(_path(folder, iteration)) as file:
            texts = json.loads(_part(file, TEXTS))
            if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or len(texts) > MOST:
                raise ValueError("its prompts are none")
            yield file, tuple(texts)
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error  # its own words hold the path
        raise ValueError(f"run: its held-out pictures of iteration {iteration} cannot be read ({reason})") from None


def _path(folder: Path, iteration: int) -> Path:
    return folder / "samples" / f"compared_{iteration:06d}.zip"


def _part(file: zipfile.ZipFile, name: str) -> bytes:
    if file.getinfo(name).file_size > LARGEST:
        raise ValueError(f"{name} is too large")
    return file.read(name)


def _encoded(image: Tensor) -> bytes:
    from PIL import Image, features

    out, picture = io.BytesIO(), Image.fromarray(to_uint8(image.expand(-1, -1, 3)).numpy())
    if min(picture.size) <= SMALL or not features.check("webp"):
        picture.save(out, "PNG")
    else:
        picture.save(out, "WEBP", quality=QUALITY)
    return out.getvalue()
