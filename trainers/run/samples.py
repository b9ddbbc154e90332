"""Sample grids: small pictures that show at a glance what the policy makes."""
from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from PIL import Image

MOST = 25      # images in a grid
SMALLEST = 96  # pixels; smaller images are enlarged without smoothing, so that each pixel stays visible
LARGEST = 1536
GAP = 2
QUALITY = 88
FORM, DESCRIPTION = "form", 0x010E  # what a sheet notes of itself; its place in EXIF
TRAINED, HELD_OUT = "iteration", "held_out"  # how a file's name begins


def save_samples(images: torch.Tensor, folder: Path, iteration: int, kind: str = TRAINED) -> Path:
    """images [N, H, W, 3 or more] in [0, 1], the first 25 of which are laid out. kind: TRAINED, pictures that the run learned
    from, or HELD_OUT. -> the file, WebP where possible."""
    from PIL import features
    suffix, form = (".webp", "WEBP") if features.check("webp") else (".jpg", "JPEG")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{kind}_{iteration:06d}{suffix}"
    beside = path.with_suffix(".tmp")
    sheet = grid(images)
    try:
        sheet.save(beside, form, quality=QUALITY, exif=_noted(sheet))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def _noted(sheet: Image.Image) -> bytes:
    """The sheet's form, "columns x rows", as the description in the file."""
    from PIL import Image
    exif = Image.Exif()
    exif[DESCRIPTION] = sheet.info[FORM]
    return exif.tobytes()


def sheet_tiles(path: Path, most: int) -> list[Image.Image]:
    """The first pictures of a sheet. A sheet of an older run does not say its form, and is one picture."""
    from PIL import Image
    with Image.open(path) as sheet:
        columns, _, rows = str(sheet.getexif().get(DESCRIPTION) or "1 x 1").partition(" x ")
        shape = int(columns), int(rows)
        width, height = sheet.width / shape[0], sheet.height / shape[1]
        return [sheet.crop((round(i % shape[0] * width), round(i // shape[0] * height),
                            round((i % shape[0] + 1) * width) - GAP, round((i // shape[0] + 1) * height) - GAP)).convert("RGB")
                for i in range(min(most, shape[0] * shape[1]))]


def grid(images: torch.Tensor) -> Image.Image:
    """As square as it gets, at most LARGEST pixels wide and high."""
    from PIL import Image
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or not len(images):
        raise ValueError(f"images: expected [N, height, width, 3], got {list(images.shape)}")
    pixels = images[:MOST, ..., :3].float().nan_to_num(0.0).clamp(0, 1).mul(255).round().byte().cpu()
    number, height, width, channels = pixels.shape
    pixels = pixels.expand(-1, -1, -1, 3) if channels == 1 else pixels
    larger = max(1, math.ceil(SMALLEST / min(height, width)))
    columns = math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    cell_w, cell_h = width * larger + GAP, height * larger + GAP
    sheet = Image.new("RGB", (columns * cell_w - GAP, rows * cell_h - GAP), (24, 24, 24))
    for i, tile in enumerate(pixels.numpy()):
        picture = Image.fromarray(tile).resize((width * larger, height * larger), Image.Resampling.NEAREST)
        sheet.paste(picture, (i % columns * cell_w, i // columns * cell_h))
    sheet.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    sheet.info[FORM] = f"{columns} x {rows}"
    return sheet
