"""The prompts of a run, with the conditionings of the user's own text encoder once they are encoded."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..rewards.base.words import brief

if TYPE_CHECKING:
    from ..rewards.base.reward import Prompt


@dataclass(frozen=True)
class PromptSet:
    """Prompts to train or to evaluate on.

    prompts: texts, each with the record that a rule verifier checks, if any.
    positive: one ComfyUI CONDITIONING per prompt, or None before "Encode Prompts".
    negative: the CONDITIONING of the negative prompt, used only where the guidance scale is not 1.
    """

    prompts: tuple[Prompt, ...]
    positive: tuple | None = None
    negative: list | None = None
    __repr__ = brief

    def __len__(self) -> int:
        return len(self.prompts)
