"""The prompts of the toy world, each with the spec that its verifier checks."""
from __future__ import annotations

from ..rewards.base.reward import Prompt
from ..trainers.prompts import PromptSet
from .world import caption, split


def prompt_set(held_out: bool) -> PromptSet:
    """78 training prompts, or the 18 held-out ones; not encoded yet."""
    return PromptSet(tuple(Prompt(caption(s), s) for s in split(held_out)))
