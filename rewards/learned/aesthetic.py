"""Aesthetic predictors: how much people like an image, whatever the prompt. A linear head on an image embedding.

LAION v1 (sa_0_4_vit_l_14_linear) and v2 (sac+logos+ava1-l14-linearMSE) on OpenAI's CLIP ViT-L/14; heads MIT and
Apache-2.0. Aesthetic predictor v2.5 on SigLIP so400m-384; head AGPL-3.0, so the pack ships neither code nor weights of
it. Nominal range 1..10; ordinary images 4..7. The published heads have layers without activations between them: they
are one linear map, and are folded into it here.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from ..base.half import through_half
from ..base.reward import Prompt, RewardInfo
from ..base.words import brief
from .checkpoints import folded_linear, load_weights
from .files import Published
from .holder import Holder, in_batches
from .preprocess import CLIP_MEAN, CLIP_STD, HALF, Geometry, preprocess
from .tower import CLIP_L, FOLDERS, build_clip_tower, build_siglip_tower


@dataclass(frozen=True)
class Version:
    head: Published
    tower: Published
    build: Callable[[Path], nn.Module]
    mode: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    __repr__ = brief


_CLIP_L = replace(CLIP_L, title="Aesthetic (image tower)")
_SIGLIP = Published("Aesthetic v2.5 (image tower)", ("*siglip-so400m-patch14-384*.safetensors",
                                                     "*sigclip_vision_patch14_384.safetensors"),
                    "siglip-so400m-patch14-384.safetensors", "model.safetensors of google/siglip-so400m-patch14-384",
                    "3.5 GB", "Apache-2.0", FOLDERS)
VERSIONS: dict[str, Version] = {
    "LAION v2": Version(Published(
        "LAION aesthetic v2 (head)", ("*sac+logos+ava1-l14-linearmse.*",), "sac+logos+ava1-l14-linearMSE.pth",
        "sac+logos+ava1-l14-linearMSE.pth of christophschuhmann/improved-aesthetic-predictor", "3.7 MB", "Apache-2.0"),
        _CLIP_L, build_clip_tower, "crop", CLIP_MEAN, CLIP_STD),
    "LAION v1": Version(Published(
        "LAION aesthetic v1 (head)", ("*sa_0_4_vit_l_14_linear.*",), "sa_0_4_vit_l_14_linear.pth",
        "sa_0_4_vit_l_14_linear.pth of LAION-AI/aesthetic-predictor", "4 kB", "MIT"),
        _CLIP_L, build_clip_tower, "crop", CLIP_MEAN, CLIP_STD),
    "v2.5 (SigLIP)": Version(Published(
        "Aesthetic v2.5 (head)", ("*aesthetic_predictor_v2_5.*",), "aesthetic_predictor_v2_5.pth",
        "aesthetic_predictor_v2_5.pth of discus0434/aesthetic-predictor-v2-5", "2.6 MB", "AGPL-3.0"),
        _SIGLIP, build_siglip_tower, "squash", HALF, HALF),
}


class AestheticReward:
    """version: a key of VERSIONS. holder: of the Tower. head: the head's file (read at the first use)."""

    def __init__(self, version: str, holder: Holder, head: Path, batch_size: int = 16):
        self._version, self._holder, self._file, self._batch_size = VERSIONS[version], holder, head, batch_size
        self._head: tuple[Tensor, Tensor] | None = None
        self.info = RewardInfo(f"aesthetic {version}", None, None, False, True,
                               "How much people like the image; 1..10, mostly 4..7.")

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return in_batches(images, prompts, self._batch_size, self._score)

    def networks(self) -> list[Holder]:
        return [self._holder]

    def embeddings(self, images: Tensor) -> Tensor:
        """images [B,H,W,3] -> [B, D]: what the head reads."""
        with self._holder.use() as (tower, device, dtype):
            return self._embedded(images, tower, device, dtype)

    def _embedded(self, images: Tensor, tower: nn.Module, device, dtype) -> Tensor:
        v = self._version
        pixels = preprocess(images.to(device), Geometry(tower.size, v.mode, v.mean, v.std))
        return through_half(tower, pixels, dtype)

    def _score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        with self._holder.use() as (tower, device, dtype):
            if self._head is None:
                self._head = load_head(self._file)
            embedding = self._embedded(images, tower, device, dtype)
            if self._head[0].shape[1] != embedding.shape[1]:
                raise ValueError(f"{self._file.name} reads embeddings of {self._head[0].shape[1]} numbers, the image "
                                 f"tower gives {embedding.shape[1]}: use the tower that the node's help names.")
            return aesthetic_score(embedding, *(t.to(device) for t in self._head))


def aesthetic_score(embedding: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """embedding [B,D], weight [1,D], bias [1] -> [B]: the head on the embedding divided by its length."""
    return F.linear(F.normalize(embedding.float(), dim=-1), weight, bias).squeeze(-1)


def load_head(path: Path) -> tuple[Tensor, Tensor]:
    """weight [1,D] and bias [1] of a head's file, its linear layers folded into one."""
    try:
        weight, bias = folded_linear(load_weights(path))
    except KeyError as error:
        raise ValueError(f"{path.name} is not an aesthetic head: {error} is missing.") from error
    if weight.shape[0] != 1:
        raise ValueError(f"{path.name} is not an aesthetic head: it gives {weight.shape[0]} numbers, not one.")
    return weight, bias
