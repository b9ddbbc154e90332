"""The prompts of a run, with the conditionings of the user's own text encoder once they are encoded."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ..rewards.base.words import brief

if TYPE_CHECKING:
    from ..rewards.base.reward import Prompt


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
    texts: for whoever encodes the same prompts elsewhere; None where it is not known how they were encoded.
    """

    prompts: tuple[Prompt, ...]
    positive: Sequence | None = None
    negative: list | None = None
    texts: Texts | None = None
    __repr__ = brief

    def __len__(self) -> int:
        return len(self.prompts)

    def prepare(self, numbers: Iterable[int], ahead: Iterable[int] = ()) -> None:
        """Has the encodings of these prompts at hand before the network is loaded. ahead: prompts whose turn comes next; they
        are encoded along with these where the text encoder has to be loaded anyway."""
        known: Any = self.positive
        if hasattr(known, "prepare"):
            known.prepare(numbers, ahead)

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

    def plus(self, prompt: Prompt, positive: list) -> PromptSet:
        """The same with one prompt more, at the end."""
        known: Any = self.positive or ()
        more = known.plus(positive) if hasattr(known, "plus") else (*known, positive)
        return replace(self, prompts=(*self.prompts, prompt), positive=more)


def _sizes(conditioning: list) -> tuple:
    """Of all tensors of a CONDITIONING, by name."""
    return tuple((tuple(text.shape), *sorted((key, tuple(value.shape)) for key, value in extra.items() if hasattr(value, "shape")))
                 for text, extra in conditioning)
