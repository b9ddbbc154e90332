"""JPEG (in)compressibility: the size of the image as a JPEG file.

Source: DDPO, arXiv:2305.13301 (reward of the authors' code: kB = 1000 bytes, quality 95, Pillow's chroma subsampling).
Range: 0 and up (incompressibility), 0 and down (compressibility). No weights, no licence, not differentiable.
"""
from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.pixels import to_uint8
from ..base.reward import Prompt, RewardInfo
from ..learned.holder import in_batches

UNITS = ("kB", "bits per pixel")


@dataclass(frozen=True)
class JPEGReward:
    """small_is_good: True = compressibility (-size), False = incompressibility (+size).

    unit "kB" is DDPO's (1000 bytes); "bits per pixel" does not change with the resolution. quality: 1..100.
    """

    small_is_good: bool = True
    unit: str = "kB"
    quality: int = 95

    def __post_init__(self):
        if self.unit not in UNITS:
            raise ValueError(f"unit must be one of {UNITS}, got '{self.unit}'.")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be 1..100, got {self.quality}.")

    @property
    def info(self) -> RewardInfo:
        name = "JPEG compressibility" if self.small_is_good else "JPEG incompressibility"
        low, high = (None, 0.0) if self.small_is_good else (0.0, None)
        return RewardInfo(name, low, high, False, False, f"Size as a JPEG of quality {self.quality}, in {self.unit}.")

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return in_batches(images, prompts, 1, self._score)

    def _score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        sizes = torch.tensor([jpeg_bytes(i, self.quality) for i in to_uint8(images)], dtype=torch.float64)
        scale = 1000.0 if self.unit == "kB" else images.shape[1] * images.shape[2] / 8.0
        return (-sizes if self.small_is_good else sizes) / scale


def jpeg_bytes(image: Tensor, quality: int) -> int:
    """Length in bytes of a [H,W,3] uint8 image written as a JPEG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.numpy()).save(file, format="JPEG", quality=quality)
    return file.tell()
