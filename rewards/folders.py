"""Images and labelled pairs from a folder on disk, read one at a time: sizes may differ, and sets may be large.

A picture's prompt is the .txt file of the same name. Labelled pairs are either a jsonl file, a line each
{"prompt": "...", "chosen": "a.png", "rejected": "b.png"} with paths relative to the file, or a folder with the
subfolders win/ and lose/ that hold images of the same names (prompt: win/<name>.txt).
"""
from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .base import Prompt

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Pair:
    """A person preferred the image `chosen` to the image `rejected` for this prompt."""

    prompt: Prompt
    chosen: Path
    rejected: Path


def read_image(path: Path) -> Tensor:
    """[1,H,W,3] in [0, 1]; transparency is put on white, EXIF rotation is applied. Raises ValueError if unreadable."""
    import numpy as np
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            return torch.from_numpy(np.asarray(image.convert("RGB")).copy())[None] / 255
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}.") from error


def images_in(folder: Path) -> list[Path]:
    """The images of a folder by name. Raises FileNotFoundError where there are none."""
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not found:
        raise FileNotFoundError(f"folder: {folder} {'holds no images' if folder.is_dir() else 'does not exist'} "
                                f"({', '.join(SUFFIXES)}).")
    return found


def captioned(folder: Path, fallback: str = "") -> Iterator[tuple[Path, Prompt]]:
    """Image paths of a folder with their prompts; fallback where an image has no .txt beside it."""
    for path in images_in(folder):
        yield path, Prompt(caption(path, fallback))


def caption(path: Path, fallback: str = "") -> str:
    file = path.with_suffix(".txt")
    return file.read_text("utf-8").strip() if file.is_file() else fallback


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a jsonl file or of a folder. Raises ValueError or FileNotFoundError that says what is wrong where."""
    pairs = _pairs_of_file(path) if path.is_file() else _pairs_of_folder(path)
    for pair in pairs:
        for image in (pair.chosen, pair.rejected):
            if not image.is_file():
                raise FileNotFoundError(f"pairs: {image}, named in {path.name}, does not exist.")
    if not pairs:
        raise ValueError(f"pairs: {path} holds none.")
    return pairs


def _pairs_of_file(path: Path) -> list[Pair]:
    pairs = []
    for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            pairs.append(Pair(Prompt(str(record["prompt"])), path.parent / record["chosen"], path.parent / record["rejected"]))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f'pairs: {path.name}, line {number} must be JSON with "prompt", "chosen" and "rejected" '
                             f"({error}).") from error
    return pairs


def _pairs_of_folder(path: Path) -> list[Pair]:
    if not (path / "win").is_dir() or not (path / "lose").is_dir():
        raise FileNotFoundError(f"pairs: {path} must be a jsonl file, or a folder with the subfolders win and lose.")
    losers = {p.stem: p for p in images_in(path / "lose")}
    return [Pair(Prompt(caption(p)), p, losers[p.stem]) for p in images_in(path / "win") if p.stem in losers]
