"""A prompt, as rewards are asked about its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from .words import brief


@dataclass(frozen=True)
class Source:
    """A picture that a prompt carries: what an editing model is told to change.

    name: as users know it; key: the same for the same picture only; read: -> [H, W, 3] in [0, 1].
    """

    name: str
    key: str
    read: Callable[[], Tensor] = field(compare=False)
    __repr__ = brief


@dataclass(frozen=True)
class Prompt:
    """A prompt and, where a rule verifier checks it, what the image must show.

    text: what the model is asked for; to rewards, in plain words. spec: a record that a verifier understands (toy world,
    GenEval) or None. written: the text with its weights, where they were taken out of it. source: the picture that the text
    says how to change, or None.
    """

    text: str
    spec: dict | None = field(default=None, hash=False)
    written: str | None = None
    source: Source | None = None
    __repr__ = brief

    @property
    def key(self) -> str:
        """Tells it from other prompts as a model sees them: the same words about another picture are another prompt."""
        text = self.text if self.written is None else self.written
        return text if self.source is None else f"{text}\0{self.source.key}"
