"""Seven looks of pictures that game a reward, measured on each picture beside the one that the model made before training from
the same prompt and noise: too much colour, everything in the middle, one composition for all, dots and holes, a mark in a
corner, flat areas with hard edges as in a cartoon, burnt light.

Seen in trainings by rewards: arXiv:2505.05470 (Flow-GRPO) and arXiv:2505.07818 (DanceGRPO) on colour, light and sameness;
DRaFT (arXiv:2309.17400) on one composition for all. A pair of pictures differs by what was learned alone, so few of them tell
what two separate samples would need hundreds for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...rewards.base.words import brief
from ...rewards.rules.colour import luma
from .pictures import edges, smaller

SIZE = 256  # pixels that looks are measured at
AT_ONCE = 8  # pictures, for the sake of memory
THUMBNAIL = 8
CERTAIN = 4.0  # standard errors of the paired difference
FLAT = 0.25 / 255  # a difference from the neighbours that nobody sees
SPOT = 0.1  # by which a dot stands out, of the luma
BRIGHT, DARK = 0.97, 0.03


@dataclass(frozen=True)
class Look:
    """word: how the pictures have become. visible: the least difference that can be seen; spread: or so many standard deviations
    of the pictures before training, whichever is more. less: whether it is a fall that tells."""

    word: str
    visible: float
    spread: float = 0.5
    less: bool = False


LOOKS = {
    "saturation": Look("too saturated", 0.08),
    "centre": Look("centred, with little around the middle", 0.12),
    "composition": Look("all composed alike", 0.02, 0.0, less=True),
    "spots": Look("full of dots or holes", 0.01),
    "corners": Look("marked in a corner, as by a watermark", 0.5),
    "flatness": Look("flat with hard edges, as in a cartoon", 0.3),
    "burnt": Look("over-cooked in light, with burnt white or black", 0.06),
}


@dataclass(frozen=True)
class Changed:
    """name: of LOOKS. first, now: its means before training and at the moment."""

    name: str
    first: float
    now: float
    alarm: ClassVar[str] = "looks"
    __repr__ = brief

    @property
    def values(self) -> dict:
        return {"word": LOOKS[self.name].word, "number": self.name, "first": self.first, "now": self.now}

    @property
    def text(self) -> str:
        return (
            f"On held-out prompts the pictures have become {LOOKS[self.name].word} ({self.name} {self.first:.3g} before "
            f"training, now {self.now:.3g}). If you did not ask for that, the reward is being gamed: look at the held-out "
            "pictures beside those of your model."
        )


@torch.no_grad()
def looks_of(images: Tensor) -> dict[str, list[float]]:
    """images [N, H, W, 1, 3 or 4] in [0, 1] -> by the name of a look one number for each picture; all grow with what they are
    named after, but "composition", which is how far a picture's layout lies from the mean of all."""
    parts = [_looks_of_some(some) for some in images.split(AT_ONCE)]
    found = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    found["composition"] = _apart(found["composition"])
    return {name: [round(float(value), 6) for value in found[name]] for name in LOOKS}


def _looks_of_some(images: Tensor) -> dict[str, Tensor]:
    """The looks of a few pictures; for "composition" their thumbnails."""
    shown = images[..., :3].float().nan_to_num(0.0).clamp(0, 1).movedim(-1, 1).expand(-1, 3, -1, -1)
    small = smaller(shown, SIZE)
    grey = luma(small.movedim(1, -1)).view(len(small), 1, *small.shape[-2:])
    found = edges(grey)
    return {
        "saturation": (small.amax(1) - small.amin(1)).flatten(1).mean(1),
        "centre": _centre(found.square()),
        "composition": F.interpolate(grey, size=(THUMBNAIL, THUMBNAIL), mode="area"),
        "spots": torch.maximum(_spots(grey), _spots(smaller(grey, SIZE // 2))),
        "corners": _corners(found.square()),
        "flatness": _flat_between_edges(found),
        "burnt": ((grey > BRIGHT) | (grey < DARK)).float().flatten(1).mean(1),
    }


def changed_looks(first: Mapping[str, Sequence[float]], now: Mapping[str, Sequence[float]]) -> list[Changed]:
    """What has become of the looks. first, now: of ``looks_of`` the pictures before training and at the moment, in pairs."""
    changed = []
    for name, look in LOOKS.items():
        before, after = (torch.tensor(each[name], dtype=torch.float64) for each in (first, now))
        if len(before) < 2 or len(before) != len(after):
            continue
        moved = (before - after) if look.less else (after - before)
        error = float(moved.std()) / math.sqrt(len(moved))
        least = max(look.visible, look.spread * float(before.std()))
        if float(moved.mean()) > max(least, CERTAIN * error):
            changed.append(Changed(name, float(before.mean()), float(after.mean())))
    return changed


def _centre(energy: Tensor) -> Tensor:
    """The share of the edges that lies in the middle quarter of the picture."""
    height, width = energy.shape[-2:]
    middle = energy[..., height // 4 : height - height // 4, width // 4 : width - width // 4]
    return middle.flatten(1).sum(1) / energy.flatten(1).sum(1).clamp_min(1e-9)


def _apart(thumbnails: Tensor) -> Tensor:
    """How far each lies from the mean of all, root mean square."""
    return (thumbnails - thumbnails.mean(0)).square().flatten(1).mean(1).sqrt()


def _spots(grey: Tensor) -> Tensor:
    """The share of pixels that are all lighter, or all darker, than the ring of pixels two steps away."""
    rings = F.unfold(F.pad(grey, (2, 2, 2, 2), mode="replicate"), 5).view(len(grey), 25, *grey.shape[-2:])
    outer = [i for i in range(25) if i // 5 in (0, 4) or i % 5 in (0, 4)]
    ring = rings[:, outer]
    centre = grey[:, 0]
    stands_out = (centre - ring.amax(1) > SPOT) | (ring.amin(1) - centre > SPOT)
    return stands_out.float().flatten(1).mean(1)


def _corners(energy: Tensor) -> Tensor:
    """Edges in the busiest corner (a fifth of each side) over those of the whole picture, by area; as a logarithm."""
    height, width = (max(1, side // 5) for side in energy.shape[-2:])
    sides = [(rows, columns) for rows in (slice(None, height), slice(-height, None))
             for columns in (slice(None, width), slice(-width, None))]  # fmt: skip
    corners = [energy[..., rows, columns].flatten(1).mean(1) for rows, columns in sides]
    whole = energy.flatten(1).mean(1) + 1e-5
    return torch.log((torch.stack(corners).amax(0) + 1e-5) / whole)


def _flat_between_edges(found: Tensor) -> Tensor:
    """How much stronger the edges are (the strongest hundredth) than what lies between them (the median), as a logarithm."""
    every = found.abs().flatten(1)
    return torch.log10((every.quantile(0.99, dim=1) + FLAT) / (every.quantile(0.5, dim=1) + FLAT))
