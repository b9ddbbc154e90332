"""The one reader of image files: what a reward sees of a picture is what a trainer learns from.

First frame, turned as its EXIF data says, transparency on white, 16 bit grey by its full range, everything else as
Pillow converts it to RGB.
"""
from __future__ import annotations

import struct
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from .base.words import shown

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
OTHER_SUFFIXES = (".tif", ".tiff", ".gif", ".avif", ".heic", ".heif", ".jxl", ".jfif", ".jp2", ".tga",
                  ".psd", ".exr", ".ppm", ".ico")
# what Pillow raises for a file that is cut or is no image at all
DAMAGE = (OSError, EOFError, SyntaxError, ValueError, TypeError, IndexError, struct.error, zlib.error)
DEEP = 65535  # white in 16 bits


class UnreadableImage(ValueError):
    """The file is no image, or is damaged; the message names it. reason: why, without the name."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{shown(name, 300)} cannot be read as an image ({shown(reason, 300)}). Save it again as PNG or "
                         "JPEG, or take it away.")
        self.reason = shown(reason, 300)


def check_image(source: Path | BinaryIO, name: str = "") -> None:
    """Raises UnreadableImage unless the file's head is an image's; the rest is not read."""
    with _opened(source, name):
        pass


def decoded(source: Path | BinaryIO, name: str = ""):
    """The file as an RGB picture of Pillow. Raises UnreadableImage with its name (``name``, else the path)."""
    from PIL import ImageOps

    with _opened(source, name) as file:
        image = ImageOps.exif_transpose(file)
        return _deep_grey(image) if image.mode.startswith("I") else _on_white(image)


def read_image(source: Path | BinaryIO, name: str = "") -> Tensor:
    """[1, H, W, 3] float32 in [0, 1] of a file; see ``decoded``."""
    import numpy as np

    return torch.from_numpy(np.array(decoded(source, name)))[None] / 255


@contextmanager
def _opened(source: Path | BinaryIO, name: str):
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(source) as file:
            yield file
    except UnidentifiedImageError:
        raise UnreadableImage(str(name or source), "it is of no kind that is known, or cut short") from None
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise UnreadableImage(str(name or source), str(error) or "it is cut short") from error


def _on_white(image):
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are real numbers of unknown range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _deep_grey(image):
    """Pillow's own conversion would cut grey levels of 16 bits off at 255."""
    import numpy as np
    from PIL import Image

    levels = np.array(image, dtype=np.int64)
    if levels.min() < 0 or levels.max() > DEEP:
        raise ValueError(f"its grey levels go from {levels.min()} to {levels.max()}, not from 0 to {DEEP}")
    if "transparency" in image.info:
        levels[levels == image.info["transparency"]] = DEEP
    grey = np.round(levels * (255 / DEEP)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")
