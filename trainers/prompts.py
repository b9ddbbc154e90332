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

    @property
    def carries_pictures(self) -> bool:
        return any(prompt.source is not None for prompt in self.prompts)

    def with_empty(self) -> PromptSet | None:
        """The same with what the network is asked where a prompt is left out: the negative prompt as one prompt more, or, where
        each carries a picture, the negative prompt with each one's. None where there is no negative prompt."""
        known: Any = self.positive
        if self.negatives is not None:
            empty = tuple(replace(prompt, text="", written=None) for prompt in self.prompts)
            return replace(self, prompts=self.prompts + empty, positive=known.plus(self.negatives),
                           negatives=self.negatives.plus(self.negatives))
        if self.negative is None:
            return None
        more = (self.negative,)
        return replace(self, prompts=(*self.prompts, Prompt("")),
                       positive=known.plus(more) if hasattr(known, "plus") else (*known, *more))

    def empty_of(self, index: Tensor) -> Tensor:
        """Of a set that is ``with_empty``: the prompt that stands for each of these where it is left out."""
        return index + len(self) // 2 if self.negatives is not None else torch.full_like(index, len(self) - 1)
