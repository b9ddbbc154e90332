"""What a rollout needs beside the network: bytes of RAM and of disk, known and checked before anything is sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..policy.latents import LARGE
from ..prompts import PromptSet
from .settings import Sampling

GB = 2**30


@dataclass(frozen=True)
class Need:
    """Bytes. states: of the random steps; means: of the same, 0 where nobody reads them; latents: finished ones, also as an
    ordinary LATENT; images: as 32-bit numbers; encodings: of the iteration's prompts; candidates: those of a step that are
    compared, and the pairs of them that are kept."""

    states: int
    means: int
    latents: int
    images: int
    encodings: int = 0
    candidates: int = 0

    @property
    def on_disk(self) -> int:
        """Many images lie in a mapped file, see ``policy.latents.to_images``."""
        return self.images if self.images > LARGE else 0

    @property
    def in_ram(self) -> int:
        return self.states + self.means + self.latents + self.encodings + self.candidates + self.images - self.on_disk

    def words(self) -> str:
        ram = self.images - self.on_disk
        parts = {
            f"states of the random steps {size(self.states)}": self.states,
            f"their means {size(self.means)}": self.means,
            f"finished latents {size(self.latents)}": self.latents,
            f"finished images {size(ram)}": ram,
            f"encoded prompts {size(self.encodings)}": self.encodings,
            f"candidates and their pairs {size(self.candidates)}": self.candidates,
        }
        told = ", ".join(words for words, part in parts.items() if part)
        return f"A rollout holds {size(self.in_ram)} in memory: {told}." + (
            f" {size(self.on_disk)} of images lie on the disk." if self.on_disk else ""
        )


def rollout_need(
    shape: tuple[int, ...],
    sampling: Sampling,
    prompts: int,
    random_steps: int,
    keep_means: bool,
    image_bytes: int,
    encodings: int = 0,
    candidates: int = 0,
) -> Need:
    """shape: of a latent; prompts: how many there are to draw from; image_bytes: of one image (``policy.latents.image_bytes``);
    encodings: bytes of all that the iteration draws; candidates: see ``candidates_bytes``."""
    count = min(sampling.prompts_per_iteration, prompts) * sampling.images_per_prompt
    latent = 4 * math.prod(shape)
    return Need(
        states=count * latent * (random_steps + 1) if random_steps else 0,
        means=count * latent * random_steps if keep_means else 0,
        latents=2 * count * latent,
        images=count * image_bytes,
        encodings=encodings,
        candidates=candidates,
    )


def candidates_bytes(shape: tuple[int, ...], count: int, samples: int, random_steps: int, image_bytes: int) -> int:
    """Of ``count`` candidates at a random step for each of the samples, and of the pair that each step leaves. image_bytes: of
    one image, where candidates are judged by their pictures, or 0."""
    latent = 4 * math.prod(shape)
    compared = count * samples * (2 * latent + image_bytes if image_bytes else latent)
    return compared + 2 * random_steps * samples * latent


def encoding_bytes(prompts: PromptSet, numbers: list[int]) -> int:
    """Of the encodings of these prompts; what several of them share counts once."""
    if prompts.positive is None:
        return 0
    every = [prompts.positive] if prompts.negatives is None else [prompts.positive, prompts.negatives]
    tensors = {id(each): each.nbytes for encodings in every for i in numbers for each in _tensors(encodings[i])}
    return sum(tensors.values())


def _tensors(value: object) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [tensor for each in inner for tensor in _tensors(each)]


def check_room(need: Need, free: int) -> None:
    """free: bytes of RAM that can be had. ValueError where a rollout does not fit; its encodings are there already."""
    if need.in_ram - need.encodings > free:
        raise ValueError(
            f"sampling: {need.words()} Only {size(free)} are free. Take fewer prompts per iteration or images per "
            "prompt, fewer noisy steps, or a smaller width and height"
        )


def size(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / GB:.1f} GB" if count >= GB / 10 else f"{count / 2**20:.1f} MB"
