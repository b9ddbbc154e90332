"""What one iteration samples: which prompts, how many images, from which seeds."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch

from ...rewards.base.words import brief
from ..noise.streams import Stream, generator
from ..prompts import PromptSet
from .settings import Sampling

AHEAD = 256  # prompts that are encoded together, so that the text encoder is loaded seldom


def chosen_prompts(count: int, sampling: Sampling, iteration: int) -> torch.Tensor:
    """[P] indices: the prompts are dealt like cards, so all are used before one comes again."""
    wanted = min(sampling.prompts_per_iteration, count)
    first = iteration * wanted
    # one deal, or the end of one and the start of the next
    parts = [_deck(count, sampling.seed, deal)[max(first - deal * count, 0):first + wanted - deal * count]
             for deal in range(first // count, (first + wanted - 1) // count + 1)]
    return torch.cat(parts)


def coming_prompts(count: int, sampling: Sampling, iteration: int) -> Iterator[int]:
    """Those of the next iterations, AHEAD of them or one iteration's; drawn only where somebody asks for them."""
    each = min(sampling.prompts_per_iteration, count)
    return (int(i) for k in range(1, max(1, AHEAD // max(1, each)) + 1) for i in chosen_prompts(count, sampling, iteration + k))


@lru_cache(maxsize=4)  # a deck of a million cards is shuffled once, not in each iteration
def _deck(count: int, seed: int, deal: int) -> torch.Tensor:
    return torch.randperm(count, generator=generator(seed, deal, Stream.DECK))


@dataclass(frozen=True)
class Samples:
    """The images of one iteration. index: [B] the prompt of each; seeds: [B] int64; starts: [B] seeds of the first
    noise where the images of a prompt share it, else None."""

    index: torch.Tensor
    seeds: torch.Tensor
    starts: torch.Tensor | None
    __repr__ = brief

    def __len__(self) -> int:
        return len(self.index)

    def side_by_side(self, prompts: PromptSet) -> Samples:
        """The same in an order that needs few calls of the network, see ``PromptSet.side_by_side``; each keeps its seed."""
        order = prompts.side_by_side(self.index.tolist())
        if order is None:
            return self
        return Samples(self.index[order], self.seeds[order], None if self.starts is None else self.starts[order])

    def noise(self, rows: slice | torch.Tensor) -> SampleNoise:
        return SampleNoise(self.seeds[rows], None if self.starts is None else self.starts[rows])


def chosen_samples(count: int, sampling: Sampling, iteration: int) -> Samples:
    """What the iteration samples of ``count`` prompts; ValueError where there is none."""
    if not count:
        raise ValueError("prompts: the list is empty; write at least one prompt")
    picks = chosen_prompts(count, sampling, iteration)
    index = picks.repeat_interleave(sampling.images_per_prompt)
    seeds = torch.randint(2**62, (len(index),), generator=generator(sampling.seed, iteration, Stream.SEEDS))
    starts = None
    if sampling.same_start:
        shared = torch.randint(2**62, (len(picks),), generator=generator(sampling.seed, iteration, Stream.STARTS))
        starts = shared.repeat_interleave(sampling.images_per_prompt)
    return Samples(index, seeds, starts)


def prepared_samples(prompts: PromptSet, sampling: Sampling, iteration: int, also: torch.Tensor | None = None) -> Samples:
    """What the iteration samples, the encodings of its prompts at hand and those of the same sizes side by side. also: further
    prompts that are needed. ValueError where there is none."""
    samples = chosen_samples(len(prompts), sampling, iteration)
    wanted = samples.index if also is None else torch.cat([samples.index, also])
    prompts.prepare(wanted.unique().tolist(), coming_prompts(len(prompts), sampling, iteration))
    return samples.side_by_side(prompts)


class SampleNoise:
    """Noise of each sample from its own generator, so that a batch may be cut anywhere.

    seeds: [B] int64; starts: seeds of the first draw, where samples share it.
    """

    def __init__(self, seeds: torch.Tensor, starts: torch.Tensor | None = None):
        self._generators = [generator(int(s)) for s in seeds]
        self._starts = None if starts is None else [generator(int(s)) for s in starts]

    def start(self, shape: tuple[int, ...]) -> torch.Tensor:
        """[B, *shape] standard normal, float32."""
        return _draw(self._generators if self._starts is None else self._starts, shape)

    def next(self, shape: tuple[int, ...]) -> torch.Tensor:
        return _draw(self._generators, shape)


def _draw(generators, shape) -> torch.Tensor:
    out = torch.empty((len(generators), *shape))
    for row, g in zip(out, generators):
        torch.randn(shape, generator=g, out=row)
    return out
