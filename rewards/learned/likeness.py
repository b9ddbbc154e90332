"""How alike an image is to pictures of a folder, and how much it shows of some words, in a CLIP's embedding.

Both are plain cosines (CLIP, arXiv:2103.00020): two pictures about 0.4..0.9, a picture and words about 0.1..0.35.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.reward import Prompt, RewardInfo
from ..images import read_image
from .clip_rewards import ClipReward, image_features
from .holder import Holder, in_batches

MODE = "crop"  # CLIP's own geometry


class LikePictures:
    """Mean cosine of an image with each of the pictures. holder: of the network that build_clip makes. pictures: files, at
    least one. batch_size: images per forward pass."""

    def __init__(self, holder: Holder, pictures: Sequence[Path], batch_size: int = 16):
        if not pictures:
            raise ValueError("pictures: there are none; give at least one file")
        self._holder, self._pictures, self._batch_size = holder, tuple(pictures), batch_size
        self._middle: Tensor | None = None
        self.info = RewardInfo("like the pictures", -1.0, 1.0, False, True, f"Mean likeness to {len(self._pictures)} pictures.")

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return in_batches(images, prompts, self._batch_size, self._score)

    def networks(self) -> list[Holder]:
        return [self._holder]

    def _score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        with self._holder.use() as (network, device, dtype):
            if self._middle is None:
                self._middle = self._mean_direction(network, device, dtype)
            found = F.normalize(image_features(network, images.to(device), MODE, dtype).float(), dim=-1)
            return found @ self._middle.to(device)

    def _mean_direction(self, network, device, dtype) -> Tensor:
        """[D] on the CPU. Its product with an image's direction is the mean of the cosines. UnreadableImage names a file."""
        with torch.no_grad():
            each = [image_features(network, read_image(path).to(device), MODE, dtype).float() for path in self._pictures]
            return F.normalize(torch.cat(each), dim=-1).mean(0).cpu()


class ShowsWords:
    """A reward that reads prompts, asked about the same words for every image, whatever its prompt."""

    def __init__(self, reward: ClipReward, words: str):
        self._reward, self._words = reward, words
        info = reward.info
        self.info = RewardInfo(
            "shows the words", info.low, info.high, False, info.differentiable, f"How much it shows: {words}"
        )

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return self._reward(images, [Prompt(self._words)] * len(images))

    def counts(self) -> dict[str, float]:
        return self._reward.counts()

    def networks(self) -> list[Holder]:
        return self._reward.networks()
