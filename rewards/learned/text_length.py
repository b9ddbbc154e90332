"""Prompts that are longer than a text tower reads: cut, said once, and counted."""
from __future__ import annotations

import logging
from collections.abc import Iterable

logger = logging.getLogger(__name__)


class PromptLimit:
    """Counts the different prompts that a reward had to cut; warns at the first one."""

    def __init__(self, reward: str, tokens: int):
        self.reward, self.tokens = reward, tokens
        self._cut: set[str] = set()

    def note(self, texts: Iterable[str]) -> None:
        for text in texts:
            if not self._cut:
                logger.warning("%s reads %d tokens of a prompt; longer prompts are cut, their end is not scored. "
                               "First one: '%s...'", self.reward, self.tokens, text[:80])
            self._cut.add(text)

    def counts(self) -> dict[str, float]:
        """For the statistics of Scores."""
        return {"prompts_cut": float(len(self._cut))} if self._cut else {}
