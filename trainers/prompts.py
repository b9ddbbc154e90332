"""The prompts of a run, with the conditionings of the user's own text encoder once they are encoded."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..rewards.base.prompt import Prompt
from ..rewards.base.words import brief


class Texts(NamedTuple):
    """What encodings were made from beside the prompts. distilled_guidance: of models with guidance built in, 0 for none."""

    negative: str
    distilled_guidance: float = 0.0


@dataclass(frozen=True)
class PromptSet:
    """Prompts to train or to evaluate on.

    prompts: texts, each with the record that a rule verifier checks, if any.
    positive: one ComfyUI CONDITIONING per prompt, or None before "Encode Prompts"; those that it makes lie on the disk.
    negative: the CONDITIONING of the negative prompt, used only where the guidance scale is not 1.
    negatives: in its place one for each prompt, where prompts carry pictures; the others have None.
    texts: for whoever encodes the same prompts elsewhere; None where it is not known how they were encoded.
    """

    prompts: tuple[Prompt, ...]
    positive: Sequence | None = None
    negative: list | None = None
    texts: Texts | None = None
    negatives: Sequence | None = None
    __repr__ = brief

    def __len__(self) -> int:
        return len(self.prompts)

    def prepare(self, numbers: Iterable[int], ahead: Iterable[int] = ()) -> None:
        """Has the encodings of these prompts at hand before the network is loaded. ahead: prompts whose turn comes next; they
        are encoded along with these where the text encoder has to be loaded anyway."""
        for known in (self.positive, self.negatives):
            prepare: Any = getattr(known, "prepare", None)
            if prepare is not None:
                prepare(numbers, ahead)

    def side_by_side(self, index: Iterable[int]) -> list[int] | None:
        """Places in an order in which samples of these prompts follow each other whose encodings have the same sizes, since only
        those go through a network in one call; otherwise as they were. None where all have the same, or none is encoded."""
        index = [int(i) for i in index]
        if self.positive is None:
            return None
        sizes = {i: _sizes(self.positive[i]) for i in dict.fromkeys(index)}
        rank = {size: place for place, size in enumerate(dict.fromkeys(sizes.values()))}
        if len(rank) < 2:
            return None
        return sorted(range(len(index)), key=lambda place: rank[sizes[index[place]]])

    @property
    def carries_pictures(self) -> bool:
        return any(prompt.source is not None for prompt in self.prompts)

    def with_empty(self) -> PromptSet | None:
        """The same with what the network is asked where a prompt is left out: the negative prompt as one prompt more, or, where
        each carries a picture, the negative prompt with each one's. None where there is no negative prompt."""
        known: Any = self.positive
        negatives: Any = self.negatives
        if negatives is not None:
            empty = tuple(replace(prompt, text="", written=None) for prompt in self.prompts)
            return replace(self, prompts=self.prompts + empty, positive=known.plus(negatives),
                           negatives=negatives.plus(negatives))
        if self.negative is None:
            return None
        more = (self.negative,)
        return replace(self, prompts=(*self.prompts, Prompt("")),
                       positive=known.plus(more) if hasattr(known, "plus") else (*known, *more))

    def empty_of(self, index: Tensor) -> Tensor:
        """Of a set that is ``with_empty``: the prompt that stands for each of these where it is left out."""
        return index + len(self) // 2 if self.negatives is not None else torch.full_like(index, len(self) - 1)


def _sizes(conditioning: list) -> tuple:
    """Of all tensors of a CONDITIONING, by name."""
    return tuple((_shapes(text), *sorted((key, shapes) for key, value in extra.items() if (shapes := _shapes(value))))
                 for text, extra in conditioning)


def _shapes(value: Any) -> tuple:
    if isinstance(value, (list, tuple)):
        return tuple(map(_shapes, value))
    return tuple(value.shape) if hasattr(value, "shape") else ()
