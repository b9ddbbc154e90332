"""A prompt, as rewards are asked about its images."""

from __future__ import annotations

from dataclasses import dataclass, field

from .words import brief


@dataclass(frozen=True)
class Prompt:
    """A prompt and, where a rule verifier checks it, what the image must show.

    text: what the model is asked for; to rewards, in plain words. spec: a record that a verifier understands (toy world,
    GenEval) or None. written: the text with its weights, where they were taken out of it.
    """

    text: str
    spec: dict | None = field(default=None, hash=False)
    written: str | None = None
    __repr__ = brief
