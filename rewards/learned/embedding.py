"""Pictures as features of a network: CLIP, Inception or the demo world's CLIP, and the distances that are measured on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..base.distances import Distance, measured
from ..base.words import brief
from ..images import read_image
from .clip_rewards import image_features
from .holder import Holder, in_batches
from .inception import GEOMETRY
from .preprocess import Geometry, preprocess
from .tower import Tower

CLIP_MEASURES, INCEPTION_MEASURES = ("FID", "KID", "CMMD"), ("FID", "KID")


@dataclass(frozen=True)
class Embedding:
    """name: of the network, beside the distances' own; "" for the one that they are defined on. holder: of the network.
    features: (network, images [B, H, W, 3] on its device, its type) -> [B, D]. measures: names of ``distances.MEASURES``.
    pictures: files that a policy's pictures are compared with; none: the model's own, before training. batch_size: pictures
    per forward pass."""

    name: str
    holder: Holder
    features: Callable[[Any, Tensor, torch.dtype], Tensor]
    measures: tuple[str, ...]
    pictures: tuple[Path, ...] = ()
    batch_size: int = 16
    __repr__ = brief

    def of(self, images: Tensor) -> Tensor:
        """images [N, H, W, 3] in [0, 1] -> [N, D] float32, on the CPU."""
        return in_batches(images, range(len(images)), self.batch_size, lambda some, _: self._answer(some))

    def of_pictures(self) -> Tensor:
        """[M, D], of the files, read one at a time. UnreadableImage names one that cannot be read."""
        return torch.cat([self.of(read_image(path)) for path in self.pictures])

    def distances(self, reference: Tensor, after: Tensor, before: Tensor | None = None) -> list[Distance]:
        """Features [M, D], [N, D] and [N, D] -> one Distance for each of ``measures``."""
        found = [measured(name, reference, after, before) for name in self.measures]
        return [replace(each, name=f"{each.name} ({self.name})" if self.name else each.name) for each in found]

    def _answer(self, images: Tensor) -> Tensor:
        with self.holder.use() as (network, device, dtype), torch.no_grad():
            return self.features(network, images.to(device), dtype).float()


def clip_embedding(holder: Holder, name: str = "CLIP", pictures: Sequence[Path] = (), batch_size: int = 16) -> Embedding:
    """holder: of the network that ``build_clip`` makes."""
    return Embedding(name, holder, _of_clip, CLIP_MEASURES, tuple(pictures), batch_size)


def tower_embedding(holder: Holder, pictures: Sequence[Path] = (), batch_size: int = 16) -> Embedding:
    """holder: of a CLIP Tower."""
    return Embedding("CLIP", holder, _of_tower, CLIP_MEASURES, tuple(pictures), batch_size)


def inception_embedding(holder: Holder, pictures: Sequence[Path] = (), batch_size: int = 16) -> Embedding:
    """holder: of the network that ``build_inception`` makes."""
    return Embedding("", holder, _of_inception, INCEPTION_MEASURES, tuple(pictures), batch_size)


def _of_clip(network: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    return image_features(network, images, "crop", dtype)


def _of_tower(network: Tower, images: Tensor, dtype: torch.dtype) -> Tensor:
    return network(preprocess(images, Geometry(network.size)).to(dtype))


def _of_inception(network: nn.Module, images: Tensor, dtype: torch.dtype) -> Tensor:
    return network(preprocess(images, GEOMETRY).to(dtype))
