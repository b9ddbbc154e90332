"""How an iteration's pictures look, in five numbers: a reward that is being gamed shows here before anybody looks."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...rewards.rules.colour import brightness, colourfulness, contrast, luma

MOST = 32         # pictures looked at, evenly chosen
COARSE = 128      # pixels that colours are measured at
CROP = 512        # pixels in the middle that the detail is measured in, at full sharpness
THUMBNAIL = 8


def picture_stats(images: Tensor) -> dict[str, float]:
    """images [N, H, W, 1, 3 or 4] in [0, 1] -> means over the pictures, each under "picture_<name>".

    brightness (mean luma, 0..1), contrast (standard deviation of the luma, 0..0.5), colourfulness (Hasler-Suesstrunk,
    0 = grey, above 100 = extreme), detail (what differs from the neighbouring pixels, root mean square of the luma: edges,
    grain, grids), variety (how far thumbnails lie from their mean, root mean square of the colour values; needs two
    pictures). Empty where there are no such pictures.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or not images.numel():
        return {}
    chosen = torch.linspace(0, len(images) - 1, min(MOST, len(images))).round().long()
    stats = each_picture(images[chosen])
    if len(chosen) > 1:
        stats["picture_variety"] = thumbnails(images[chosen]).var(0, correction=1).mean().sqrt()
    return {name: float(value.mean()) for name, value in stats.items()}


@torch.no_grad()
def each_picture(images: Tensor) -> dict[str, Tensor]:
    """images [N, H, W, 1, 3 or 4] in [0, 1] -> [N] of each picture for every name of ``picture_stats`` but variety."""
    shown = _shown(images)
    last = smaller(shown, COARSE).movedim(1, -1)
    return {"picture_brightness": brightness(last), "picture_contrast": contrast(last),
            "picture_colourfulness": colourfulness(last), "picture_detail": _detail(shown)}


@torch.no_grad()
def thumbnails(images: Tensor) -> Tensor:
    """images [N, H, W, 1, 3 or 4] in [0, 1] -> [N, 3, h, w] of THUMBNAIL pixels at most."""
    return smaller(smaller(_shown(images), COARSE), THUMBNAIL)


def _shown(images: Tensor) -> Tensor:
    return images[..., :3].float().clamp(0, 1).movedim(-1, 1).expand(-1, 3, -1, -1)


def smaller(images: Tensor, pixels: int) -> Tensor:
    """[N, C, H, W], no side longer than ``pixels``."""
    height, width = images.shape[-2:]
    size = (min(height, pixels), min(width, pixels))
    return images if size == (height, width) else F.interpolate(images, size=size, mode="area")


def _detail(images: Tensor) -> Tensor:
    """[N, 3, H, W] -> [N]: the luma without its mean over 3 x 3 pixels."""
    height, width = images.shape[-2:]
    top, left = max(0, height - CROP) // 2, max(0, width - CROP) // 2
    part = images[..., top:top + CROP, left:left + CROP]
    grey = luma(part.movedim(1, -1)).view(len(part), 1, *part.shape[-2:])
    return edges(grey).square().flatten(1).mean(1).sqrt()


def edges(grey: Tensor) -> Tensor:
    """[N, 1, H, W]: the luma without its mean over 3 x 3 pixels. The picture's borders count as they are: outside there is
    nothing to differ from."""
    return grey - F.avg_pool2d(grey, 3, stride=1, padding=1, count_include_pad=False)
