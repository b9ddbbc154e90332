"""CLIPScore, PickScore, HPSv2 and HPSv2.1: how near image and prompt are in a CLIP's embedding.

CLIPScore, arXiv:2104.08718 (here the plain cosine): about 0.15..0.35. MIT (OpenAI ViT-L/14).
PickScore v1, arXiv:2305.01569: logit scale (100) times the cosine, about 17..25. MIT.
HPS v2 / v2.1, arXiv:2306.09341: the plain cosine of a black-padded image, about 0.20..0.30 / 0.14..0.35. Apache-2.0.
HPS values of different prompts, or of v2 and v2.1, cannot be compared with each other.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base.half import through_half
from ..base.reward import Prompt, RewardInfo
from ..base.words import brief
from .clip import load_tokenizer, tokenize
from .files import Published
from .holder import Holder, in_batches
from .hub import pooled
from .preprocess import Geometry, preprocess
from .text_length import PromptLimit


@dataclass(frozen=True)
class Kind:
    """mode: geometry of preprocess. scaled: multiply the cosine by the learned logit scale."""

    mode: str
    scaled: bool
    low: float
    high: float
    file: Published
    __repr__ = brief


_FOLDERS = ("reward_models", "clip", "text_encoders")
DESCRIPTIONS = {
    "PickScore": "Would a person pick this image for the prompt? About 17..25.",
    "HPSv2.1": "Human preference, newer training data; about 0.14..0.35.",
    "HPSv2": "Human preference, trained on HPD v2; about 0.20..0.30.",
    "CLIPScore": "Does the image match the prompt? Cosine, about 0.15..0.35.",
}
KINDS: dict[str, Kind] = {
    "PickScore": Kind("crop", True, -100.0, 100.0,
                      Published("PickScore", ("*pickscore*/model.safetensors", "*pickscore*.safetensors"),
                                "PickScore_v1.safetensors", "model.safetensors of yuvalkirstain/PickScore_v1",
                                "3.9 GB", "MIT", _FOLDERS)),
    "HPSv2.1": Kind("pad", False, -1.0, 1.0, Published(
        "HPSv2.1", ("*hps_v2.1*",), "HPS_v2.1_compressed.pt", "HPS_v2.1_compressed.pt of xswu/HPSv2",
        "2 to 4 GB", "Apache-2.0", _FOLDERS)),
    "HPSv2": Kind("pad", False, -1.0, 1.0, Published(
        "HPSv2", ("*hps_v2_compressed.*", "*hps_v2.0*.safetensors"), "HPS_v2_compressed.pt",
        "HPS_v2_compressed.pt of xswu/HPSv2", "2 to 4 GB", "Apache-2.0", _FOLDERS)),
    "CLIPScore": Kind("crop", False, -1.0, 1.0, Published(
        "CLIPScore", ("*clip-vit-large-patch14/model.safetensors", "*clip-vit-large-patch14.safetensors"),
        "clip-vit-large-patch14.safetensors", "model.safetensors of openai/clip-vit-large-patch14", "1.7 GB", "MIT",
        _FOLDERS)),
}


class ClipReward:
    """One of KINDS over a CLIPModel. holder: of the network that build_clip makes. tokenizer: folder with CLIP's
    vocabulary. batch_size: images per forward pass."""

    def __init__(self, kind: str, holder: Holder, tokenizer: Path, batch_size: int = 16):
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {list(KINDS)}, got '{kind}'.")
        self.kind, self._holder, self._tokenizer, self._batch_size = KINDS[kind], holder, tokenizer, batch_size
        self.info = RewardInfo(kind, self.kind.low, self.kind.high, True, True, DESCRIPTIONS[kind])
        self._limit = PromptLimit(kind, 77)

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return in_batches(images, prompts, self._batch_size, self._score)

    def counts(self) -> dict[str, float]:
        return self._limit.counts()

    def networks(self) -> list[Holder]:
        return [self._holder]

    def _score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        with self._holder.use() as (network, device, dtype):
            image = image_features(network, images.to(device), self.kind.mode, dtype)
            text = self._text_features(network, [p.text for p in prompts], device)
            cosine = cosines(image, text)
            return cosine * network.logit_scale.float().exp() if self.kind.scaled else cosine

    def _text_features(self, network: nn.Module, texts: list[str], device: torch.device) -> Tensor:
        """One row per text; a text that occurs often is encoded once."""
        unique = list(dict.fromkeys(texts))
        limit = network.config.text_config.max_position_embeddings
        ids, cut = tokenize(load_tokenizer(self._tokenizer), unique, limit)
        self._limit.note(cut)
        with torch.no_grad():
            features = pooled(network.get_text_features(input_ids=ids.to(device))).float()
        return features[[unique.index(t) for t in texts]]


def image_features(network: nn.Module, images: Tensor, mode: str, dtype: torch.dtype) -> Tensor:
    """Projected image embeddings [B,D] in float32 of [B,H,W,3] images, differentiable."""
    pixels = preprocess(images, Geometry(network.config.vision_config.image_size, mode))
    return through_half(lambda p: pooled(network.get_image_features(pixel_values=p)), pixels, dtype)


def cosines(image: Tensor, text: Tensor) -> Tensor:
    """Cosine of each image [B,D] with its own text [B,D] in float32: half precision would round away the small
    differences inside a group."""
    return (F.normalize(image.float(), dim=-1) * F.normalize(text.float(), dim=-1)).sum(-1)
