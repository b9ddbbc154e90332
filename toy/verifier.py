"""Exact rule verifier of the toy world: finds every ball, then compares colours, counts and relation with the spec."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..rewards.base.reward import Prompt, RewardInfo
from ..rewards.base.words import brief
from .world import COLOURS, PALETTE

MIN_CHROMA = 0.3  # max - min of a pixel's channels; the grey background has about 0, a ball 0.6 or more
SPECK = 6  # smaller coloured spots are ignored
BALL_AREA = (13, 46)  # pixels; a true ball covers 19 to 33
MAX_SPREAD = 1.3  # second moment of the spot over that of a disc of the same area
MAX_ELONGATION = 2.2  # ratio of the two principal second moments
# pixels along the relation: right at RIGHT_BY (as in GenEval, a diagonal is both left of and above), 0 at WRONG_BY
RIGHT_BY, WRONG_BY = 4.0, -8.0
PARTS = ("number", "colours")
KINDS = ("mixed", "strict", "dense", *PARTS)


@dataclass(frozen=True)
class Found:
    """What one image shows: (colour, row, column) of each ball, spots that are no ball, background as it should be."""

    balls: tuple[tuple[str, float, float], ...]
    malformed: int
    clean: bool
    __repr__ = brief


def _colour_masks(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-> masks [colours, B, H, W]: coloured pixels, under the palette colour nearest in hue; and chroma [B, H, W]."""
    chroma = images.max(-1) - images.min(-1)
    palette = np.array([PALETTE[c] for c in COLOURS], np.float32)
    palette -= palette.mean(1, keepdims=True)
    palette /= np.linalg.norm(palette, axis=1, keepdims=True)
    nearest = (images @ palette.T).argmax(-1)  # the palette has zero mean, so that grey drops out
    return (np.arange(len(COLOURS))[:, None, None, None] == nearest) & (chroma > MIN_CHROMA), chroma


def _background_ok(images: np.ndarray, chroma: np.ndarray) -> np.ndarray:
    """[B]: away from the balls the picture is flat grey."""
    from scipy import ndimage

    around = ndimage.binary_dilation(chroma > MIN_CHROMA, np.ones((1, 3, 3)))
    weight = ~around
    count = weight.sum((1, 2)).clip(1)
    light = images.mean(-1)
    mean = (light * weight).sum((1, 2)) / count
    spread = np.sqrt((((light - mean[:, None, None]) ** 2) * weight).sum((1, 2)) / count)
    tint = (chroma * weight).sum((1, 2)) / count
    return (weight.mean((1, 2)) > 0.25) & (mean > 0.3) & (mean < 0.7) & (spread < 0.1) & (tint < 0.15)


def find_balls(images: torch.Tensor) -> list[Found]:
    """Balls in a batch [B, H, W, 3] in [0, 1] (values outside are clipped, NaN counts as black)."""
    from scipy import ndimage

    pixels = np.nan_to_num(images.detach().float().cpu().numpy()).clip(0, 1)
    masks, chroma = _colour_masks(pixels)
    plane = np.zeros((3, 3, 3), bool)  # neighbours within one image and one colour only
    plane[1] = ndimage.generate_binary_structure(2, 1)
    labels, count = ndimage.label(masks.reshape(-1, *masks.shape[2:]), plane)
    layer, row, column = labels.nonzero()
    label = labels[layer, row, column]
    area = np.bincount(label, minlength=count + 1).clip(1).astype(float)
    mean = lambda values: np.bincount(label, values, count + 1) / area  # noqa: E731
    y, x = mean(row), mean(column)
    yy, xx = mean(row * row) - y * y + 1 / 12, mean(column * column) - x * x + 1 / 12  # 1/12: a pixel's own extent
    xy = mean(row * column) - y * x
    gap = np.sqrt((yy - xx) ** 2 / 4 + xy**2)
    middle = (yy + xx) / 2
    round_ = (middle * 4 * np.pi < MAX_SPREAD * area) & (middle + gap < MAX_ELONGATION * (middle - gap))
    good = round_ & (area >= BALL_AREA[0]) & (area <= BALL_AREA[1])
    layer_of = np.zeros(count + 1, int)
    layer_of[label] = layer
    balls: list[list] = [[] for _ in pixels]
    malformed = [0] * len(pixels)
    for k in range(1, count + 1):
        colour, image = divmod(layer_of[k], len(pixels))
        if good[k]:
            balls[image].append((COLOURS[colour], y[k], x[k]))
        elif area[k] >= SPECK:
            malformed[image] += 1
    clean = _background_ok(pixels, chroma)
    return [Found(tuple(b), m, bool(c)) for b, m, c in zip(balls, malformed, clean)]


def relation_score(found: Found, objects: Sequence, relation: str) -> float:
    """How clearly the first object lies where it should: 1 = passes, less on the way, 0 = wrong or missing."""
    places = []
    for _, colour in objects:
        at = [(r, c) for name, r, c in found.balls if name == colour]
        if not at:
            return 0.0
        places.append(np.mean(at, 0))
    dy, dx = places[0] - places[1]
    along = dx if relation in ("left of", "right of") else dy
    along = -along if relation in ("left of", "above") else along
    return float(np.clip((along - WRONG_BY) / (RIGHT_BY - WRONG_BY), 0, 1))


def judge(found: Found, spec: dict) -> tuple[float, float]:
    """-> (strict 0 or 1, dense in [0, 1]); a strict pass has dense 1."""
    wanted = Counter()
    for n, colour in spec["objects"]:
        wanted[colour] += n
    have = Counter(colour for colour, _, _ in found.balls)
    total, right = sum(have.values()), sum((have & wanted).values())
    want = sum(wanted.values())
    agreement = 2 * right / max(total + want, 1)  # F1 of the two multisets of colours
    number = 1 - abs(total - want) / max(total, want, 1)
    dense = 0.75 * agreement + 0.25 * number
    relation = 1.0
    if spec.get("relation"):
        relation = relation_score(found, spec["objects"], spec["relation"])
        dense = 0.6 * dense + 0.4 * relation
    dense *= (1.0 if found.clean else 0.5) * 0.8**found.malformed
    strict = have == wanted and relation == 1.0 and found.clean and not found.malformed
    return float(strict), dense


def judge_part(found: Found, spec: dict, part: str) -> float:
    """0..1 for one skill alone, 1 where it is right: "number", how many balls there are; "colours", which they have."""
    wanted, have = Counter(), Counter(colour for colour, _, _ in found.balls)
    for n, colour in spec["objects"]:
        wanted[colour] += n
    total, want = sum(have.values()), sum(wanted.values())
    number = 1 - abs(total - want) / max(total, want, 1)
    colours = 2 * len(have.keys() & wanted.keys()) / max(len(have) + len(wanted), 1)
    score = number if part == "number" else colours
    return score * (1.0 if found.clean else 0.5) * 0.8**found.malformed


class ToyVerifier:
    """Reward of the toy world. ``kind``: "strict" (0 or 1), "dense" (partial credit) or "mixed" (half of each); "number" and
    "colours" judge one skill alone, see ``judge_part``."""

    def __init__(self, kind: str = "mixed") -> None:
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; choose one of {', '.join(KINDS)}.")
        self.kind = kind
        self.info = RewardInfo(f"toy verifier ({kind})", low=0.0, high=1.0, needs_prompt=True, differentiable=False,
                               description="Counts the balls of each colour and checks where they lie.")

    def both(self, images: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        """-> [B, 2]: strict and dense."""
        self._check(images, prompts)
        return torch.tensor([judge(f, p.spec) for f, p in zip(find_balls(images), prompts)]).reshape(-1, 2)

    def _check(self, images: torch.Tensor, prompts: Sequence[Prompt]) -> None:
        if len(images) != len(prompts):
            raise ValueError(f"There are {len(images)} images and {len(prompts)} prompts; each image needs its prompt.")
        for p in prompts:
            if not p.spec:
                raise ValueError(f"The prompt {p.text!r} has no spec: the verifier only knows the demo world's prompts.")

    def __call__(self, images: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        """images [B, H, W, 3] in [0, 1] -> scores [B]."""
        if self.kind in PARTS:
            self._check(images, prompts)
            return torch.tensor([judge_part(f, p.spec, self.kind) for f, p in zip(find_balls(images), prompts)],
                                dtype=torch.float32)
        strict, dense = self.both(images, prompts).unbind(1)
        return {"strict": strict, "dense": dense, "mixed": (strict + dense) / 2}[self.kind]
