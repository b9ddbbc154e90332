"""Pixels of an image as bytes: 8 bit, and as a PNG file."""
from __future__ import annotations

import io

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """[B,H,W,3] floats -> uint8 on the CPU, rounded to nearest and clamped."""
    return (images.detach() * 255).round().clamp(0, 255).to("cpu", torch.uint8)


def png_bytes(image: Tensor, compress_level: int = -1) -> bytes:
    """A [H,W,3] float image as a PNG file. compress_level: 0 to 9, the higher the smaller and slower; -1: zlib's usual."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(to_uint8(image).numpy()).save(file, format="PNG", compress_level=compress_level)
    return file.getvalue()
