"""Colour statistics as rewards: colourfulness, brightness, contrast, saturation, clipped pixels. No weights.

Source of colourfulness: Hasler and Suesstrunk 2003, "Measuring colourfulness in natural images", on 0..255 values.
Brightness is the mean, contrast the standard deviation of Rec. 709 luma; saturation is that of HSV.
All are differentiable, except the share of clipped pixels.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..base.reward import Prompt, RewardInfo
from ..learned.holder import in_batches

LUMA = (0.2126, 0.7152, 0.0722)
TINY = 1e-12  # keeps the square root's gradient finite on a single-colour image


def brightness(images: Tensor) -> Tensor:
    """Mean luma, 0..1. images [B,H,W,3] -> [B]."""
    return luma(images).mean(1)


def contrast(images: Tensor) -> Tensor:
    """Standard deviation of the luma, 0..0.5."""
    return luma(images).var(1, correction=0).add(TINY).sqrt()


def saturation(images: Tensor) -> Tensor:
    """Mean HSV saturation, 0..1."""
    high, low = images.amax(-1), images.amin(-1)
    return ((high - low) / high.clamp_min(1e-6)).flatten(1).mean(1)


def colourfulness(images: Tensor) -> Tensor:
    """Hasler-Suesstrunk M3 on 0..255 values: 0 = grey, 15 = slightly, 59 = quite, above 100 = extremely colourful."""
    red, green, blue = (images * 255).flatten(1, 2).unbind(-1)
    red_green, yellow_blue = red - green, (red + green) / 2 - blue
    spread = (red_green.var(1, correction=0) + yellow_blue.var(1, correction=0)).add(TINY).sqrt()
    mean = (red_green.mean(1) ** 2 + yellow_blue.mean(1) ** 2).add(TINY).sqrt()
    return spread + 0.3 * mean


def clipped(images: Tensor) -> Tensor:
    """Share of colour values at the very ends of the range (below 1/255 or above 254/255), 0..1."""
    return ((images < 1 / 255) | (images > 254 / 255)).float().flatten(1).mean(1)


def luma(images: Tensor) -> Tensor:
    """[B,H,W,3] -> [B,H*W]."""
    return (images @ images.new_tensor(LUMA)).flatten(1)


STATISTICS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {  # function, lowest, highest value
    "colourfulness": (colourfulness, 0.0, 315.0),
    "brightness": (brightness, 0.0, 1.0),
    "contrast": (contrast, 0.0, 0.5),
    "saturation": (saturation, 0.0, 1.0),
    "clipped pixels": (clipped, 0.0, 1.0),
}
AT_ONCE = 8  # images: a statistic makes several arrays of their size
AIMS = ("more", "less", "inside bounds")


@dataclass(frozen=True)
class ColourReward:
    """One statistic as a reward. aim "more": +value, "less": -value, "inside bounds": 0 inside [low, high] and
    minus the distance to them outside, so that a policy is held in a corridor and not pushed."""

    statistic: str = "colourfulness"
    aim: str = "more"
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self):
        if self.statistic not in STATISTICS:
            raise ValueError(f"statistic must be one of {list(STATISTICS)}, got '{self.statistic}'.")
        if self.aim not in AIMS:
            raise ValueError(f"aim must be one of {AIMS}, got '{self.aim}'.")
        if self.aim == "inside bounds" and self.low > self.high:
            raise ValueError(f"low ({self.low}) must not be above high ({self.high}).")

    @property
    def info(self) -> RewardInfo:
        _, lowest, highest = STATISTICS[self.statistic]
        bounds = {"more": (lowest, highest), "less": (-highest, -lowest),
                  "inside bounds": (-max(self.low - lowest, highest - self.high, 0.0), 0.0)}[self.aim]
        names = {"more": self.statistic, "less": f"less {self.statistic}",
                 "inside bounds": f"{self.statistic} in {self.low:g}..{self.high:g}"}
        return RewardInfo(names[self.aim], *bounds, False, self.statistic != "clipped pixels",
                          "A statistic of the pixels; needs no model.")

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return in_batches(images, prompts, AT_ONCE, self._score)

    def _score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        value = STATISTICS[self.statistic][0](images)
        if self.aim == "inside bounds":
            return -(torch.relu(self.low - value) + torch.relu(value - self.high))
        return value if self.aim == "more" else -value
