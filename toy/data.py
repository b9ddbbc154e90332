"""Training pictures with web-like captions: a fixed share of them says something else than the picture shows."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..rewards.base.words import brief
from . import models, world

EMPTY = 0.1  # share of empty captions, so that guidance has an unconditional branch
KIND_SHARES = {"single": 0.08, "count": 0.22, "two objects": 0.12, "position": 0.34, "mixed count": 0.24}


@dataclass(frozen=True)
class Captions:
    """Every caption encoded once. tokens [N, T, D], pooled [N, D]; the last row is the empty caption."""

    texts: tuple[str, ...]
    tokens: torch.Tensor
    pooled: torch.Tensor
    __repr__ = brief


@dataclass(frozen=True)
class Pictures:
    """images uint8 [N, 3, H, W]; caption [N]: row in Captions."""

    images: torch.Tensor
    caption: torch.Tensor
    __repr__ = brief


def encode(clip: object, texts: list[str]) -> Captions:
    """Encode each text once with a stock CLIP."""
    rows = [clip.encode_from_tokens(clip.tokenize(t), return_pooled=True) for t in [*texts, ""]]
    return Captions((*texts, ""), torch.cat([r[0] for r in rows]), torch.cat([r[1] for r in rows]))


def make_pictures(count: int, wrong_share: float, seed: int) -> Pictures:
    """Pictures of the training specs; caption rows follow ``world.split(held_out=False)``."""
    rng = np.random.default_rng(seed)
    specs = world.split(held_out=False)
    of_kind = {k: sum(s["kind"] == k for s in specs) for k in world.KINDS}
    chance = np.array([KIND_SHARES[s["kind"]] / of_kind[s["kind"]] for s in specs])
    row = rng.choice(len(specs), count, p=chance / chance.sum())
    shown = [world.wrong(specs[i], rng) if rng.random() < wrong_share else specs[i] for i in row]
    parts = [world.render(shown[i : i + 4096], int(rng.integers(2**31))) for i in range(0, count, 4096)]
    images = np.concatenate([(p * 255).round().astype(np.uint8).transpose(0, 3, 1, 2) for p in parts])
    return Pictures(torch.from_numpy(images), torch.from_numpy(row))


def batches(pictures: Pictures, captions: Captions, size: int, generator: torch.Generator):
    """Endless shuffled batches (x0 [B, 3, H, W] in [-1, 1], tokens, pooled), a tenth with the empty caption."""
    empty = len(captions.texts) - 1
    while True:
        order = torch.randperm(len(pictures.caption), generator=generator)
        for pick in order[: len(order) // size * size].split(size):
            row = torch.where(torch.rand(size, generator=generator) < EMPTY, empty, pictures.caption[pick])
            yield pictures.images[pick].float() / 127.5 - 1, captions.tokens[row], captions.pooled[row]


def text_encoder():
    """The shipped text encoder, made first where there is none."""
    if not models.TEXT_FILE.is_file():
        from .initial import make_text_encoder

        make_text_encoder(models.TEXT_FILE)
    return models.load_clip()
