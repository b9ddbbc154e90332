"""Images as reward networks expect them, on the device and differentiable.

Pillow rounds to 8 bit and has no gradient; here the resize is torch's antialiased one, without rounding. Antialiasing
is not optional: without it a policy that is trained through the resize learns high frequencies that only the network
sees. Agreement with Pillow is measured in the tests.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)
LONGEST = 16  # beyond this aspect ratio the far ends are cut before the resize: a crop never sees them


@dataclass(frozen=True)
class Geometry:
    """size: side of the square in pixels. mode: "crop" = short side to size, centre cut out; "pad" = long side to
    size, black around it; "squash" = both sides to size. interpolation: "bicubic" or "bilinear"."""

    size: int
    mode: str = "crop"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    interpolation: str = "bicubic"


def preprocess(images: Tensor, geometry: Geometry) -> Tensor:
    """[B,H,W,3] in [0, 1] -> [B,3,size,size] normalised, float32, on the images' device."""
    pixels = images.float().movedim(-1, 1)
    if geometry.mode == "crop":
        pixels = _crop(resized(_bounded(pixels), _short_side(pixels, geometry.size), geometry.interpolation),
                       geometry.size)
    elif geometry.mode == "pad":
        pixels = _pad(resized(pixels, _long_side(pixels, geometry.size), geometry.interpolation), geometry.size)
    elif geometry.mode == "squash":
        pixels = resized(pixels, (geometry.size, geometry.size), geometry.interpolation)
    else:
        raise ValueError(f"mode must be crop, pad or squash, got '{geometry.mode}'.")
    mean, std = (pixels.new_tensor(v).view(3, 1, 1) for v in (geometry.mean, geometry.std))
    return (pixels - mean) / std


def resized(pixels: Tensor, size: tuple[int, int], interpolation: str = "bicubic") -> Tensor:
    """Antialiased resize of [B,C,H,W], clamped to [0, 1] (bicubic overshoots). Same size = unchanged."""
    if pixels.shape[-2:] == size:
        return pixels
    return F.interpolate(pixels, size, mode=interpolation, antialias=True, align_corners=False).clamp(0, 1)


def _bounded(pixels: Tensor) -> Tensor:
    """Cuts the far ends of an extremely long image, which would become huge with its short side enlarged."""
    limit = LONGEST * min(pixels.shape[-2:])
    return _centre(pixels, min(pixels.shape[-2], limit), min(pixels.shape[-1], limit))


def _short_side(pixels: Tensor, size: int) -> tuple[int, int]:
    height, width = _bounded(pixels).shape[-2:]
    return (size, int(size * width / height)) if height <= width else (int(size * height / width), size)


def _long_side(pixels: Tensor, size: int) -> tuple[int, int]:
    height, width = pixels.shape[-2:]
    scale = size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _crop(pixels: Tensor, size: int) -> Tensor:
    return _centre(pixels, size, size)


def _centre(pixels: Tensor, height: int, width: int) -> Tensor:
    top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
    return pixels[..., top:top + height, left:left + width]


def _pad(pixels: Tensor, size: int) -> Tensor:
    vertical, horizontal = size - pixels.shape[-2], size - pixels.shape[-1]
    return F.pad(pixels, (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2))
