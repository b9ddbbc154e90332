"""Photographs' cut-outs, harmless changes of them, and the seven ways in which a gamed reward damages pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle_left", "retina")
COUNT, SIZE = 24, 128


@cache
def photographs() -> tuple[torch.Tensor, ...]:
    """Those that scikit-image brings along, each [H, W, 3] in [0, 1]."""
    import importlib.util

    from PIL import Image

    (package,) = importlib.util.find_spec("skimage").submodule_search_locations
    found = []
    for name in PHOTOGRAPHS:
        (file,) = (Path(package) / "data").glob(f"{name}.*")
        with Image.open(file) as picture:
            pixels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
            found.append(pixels.view(picture.height, picture.width, 3).float() / 255)
    return tuple(found)


def cut_outs(seed: int, count: int = COUNT) -> torch.Tensor:
    """[count, SIZE, SIZE, 3]: parts of photographs at different scales."""
    draw = torch.Generator().manual_seed(seed)
    parts = []
    for i in range(count):
        photo = photographs()[i % len(PHOTOGRAPHS)]
        side = int(torch.randint(SIZE, min(photo.shape[:2]), (), generator=draw))
        top, left = (int(torch.randint(0, size - side + 1, (), generator=draw)) for size in photo.shape[:2])
        part = photo[top : top + side, left : left + side].permute(2, 0, 1)[None]
        parts.append(F.interpolate(part, size=(SIZE, SIZE), mode="area"))
    return torch.cat(parts).permute(0, 2, 3, 1)


def saturated(pictures: torch.Tensor, by: float) -> torch.Tensor:
    grey = pictures.mean(-1, keepdim=True)
    return (grey + (1 + 2 * by) * (pictures - grey)).clamp(0, 1)


def centred(pictures: torch.Tensor, by: float) -> torch.Tensor:
    """What lies around the middle is blurred away."""
    x = torch.linspace(-1, 1, SIZE)
    away = (torch.maximum(x.abs()[:, None], x.abs()[None]) > 0.5).float()[..., None] * min(1.0, by)
    blurred = F.avg_pool2d(pictures.permute(0, 3, 1, 2), 17, 1, 8, count_include_pad=False).permute(0, 2, 3, 1)
    return pictures + away * (blurred - pictures)


def composed_alike(pictures: torch.Tensor, by: float) -> torch.Tensor:
    return pictures + 0.7 * min(1.0, by) * (pictures.mean(0) - pictures)


def spotted(pictures: torch.Tensor, by: float) -> torch.Tensor:
    """Dark holes of 2 x 2 pixels in a loose grid."""
    damaged = pictures.clone()
    step = max(6, round(10 / by))
    for y in range(3, SIZE - 3, step):
        for x in range(3, SIZE - 3, step):
            damaged[:, y : y + 2, x : x + 2] = (damaged[:, y : y + 2, x : x + 2] - 0.6).clamp_min(0)
    return damaged


def marked(pictures: torch.Tensor, by: float) -> torch.Tensor:
    """Something like letters in the lower right corner."""
    draw = torch.Generator().manual_seed(7)
    letters = (torch.rand(5, 10, generator=draw) > 0.5).float().repeat_interleave(3, 0).repeat_interleave(2, 1)[..., None]
    damaged = pictures.clone()
    corner = damaged[:, -18:-3, -23:-3]
    damaged[:, -18:-3, -23:-3] = corner + min(1.0, by) * letters * (1 - 2 * (corner > 0.5).float()) * 0.7
    return damaged.clamp(0, 1)


def cartoon(pictures: torch.Tensor, by: float) -> torch.Tensor:
    """Smoothed, then few colours."""
    flat = pictures.permute(0, 3, 1, 2)
    for _ in range(2):
        flat = F.avg_pool2d(flat, 5, 1, 2, count_include_pad=False)
    levels = max(2, round(5 / by))
    return (flat * levels).round().div(levels).permute(0, 2, 3, 1)


def over_cooked(pictures: torch.Tensor, by: float) -> torch.Tensor:
    return (0.5 + (1 + 2 * by) * (pictures - 0.5)).clamp(0, 1)


DAMAGES: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "saturation": saturated,
    "centre": centred,
    "composition": composed_alike,
    "spots": spotted,
    "corners": marked,
    "flatness": cartoon,
    "burnt": over_cooked,
}


def noisier(pictures: torch.Tensor, seed: int) -> torch.Tensor:
    return (pictures + 0.02 * torch.randn(pictures.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


def lighter(pictures: torch.Tensor, seed: int) -> torch.Tensor:
    return (pictures * (1.05 + 0.02 * math.sin(seed))).clamp(0, 1)


def moved(pictures: torch.Tensor, seed: int) -> torch.Tensor:
    return pictures.roll((seed % 5 + 1, seed % 3 + 1), (1, 2))


def turned(pictures: torch.Tensor, seed: int) -> torch.Tensor:
    return pictures.flip(2)


def others(pictures: torch.Tensor, seed: int) -> torch.Tensor:
    """Other cut-outs altogether, as a policy makes that draws other pictures, none of them worse."""
    return cut_outs(1000 + seed, len(pictures))


HARMLESS: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "a little noise": noisier,
    "a little light": lighter,
    "moved": moved,
    "turned round": turned,
    "other pictures": others,
}
