"""Blind comparisons as a gate: a policy counts as better only where the judge's answers leave no doubt of it.

Every time that held-out prompts are measured, the policy's pictures stand beside those of the model before training, or of the
best policy so far, pair by pair. Half of the answers for it are even; their 95 % interval decides.
"""

from __future__ import annotations

import math
from typing import Any

EVEN = 0.5
BEST, BASE = "the best policy so far", "the model before training"
AGAINST = (BEST, BASE)
SHARE, LOW, HIGH, STRENGTH, PAIRS = "blind_share", "blind_low", "blind_high", "blind_strength", "blind_pairs"


class Gate:
    """evaluation: ``blind``, with ``against`` (one of AGAINST) and ``compare(images, others, prompts, seed)`` -> ``share`` and
    ``strength`` with their ends and ``pairs``."""

    def __init__(self, evaluation: Any):
        self._blind = evaluation.blind
        self.others: Any = None  # pictures [N, H, W, 3] of what policies are compared with; None: they have to be made again
        self._newest: Any = None
        self._share: Any = None

    @property
    def against_best(self) -> bool:
        return self._blind.against == BEST

    def judge(self, found: Any, iteration: int, opponent: str) -> tuple[dict[str, float], str]:
        """found: the newest measurement; opponent: in words -> numbers for the iteration's line, and a sentence."""
        compared = self._blind.compare(found.images, self.others, found.prompts, iteration)
        self._newest, self._share = found.images, compared.share
        share, low, high = compared.share
        numbers = {SHARE: share, LOW: low, HIGH: high, PAIRS: float(compared.pairs)}
        if math.isfinite(compared.strength.strength):
            numbers[STRENGTH] = compared.strength.strength
        verdict = "better" if self.passed else "worse" if high < EVEN else "no different by what is known"
        return numbers, (f"Blind comparison with {opponent}: preferred in {share:.0%} of {compared.pairs} pairs (95 %: {low:.0%} "
                         f"to {high:.0%}), {verdict}.")  # fmt: skip

    @property
    def passed(self) -> bool:
        return self._share.low > EVEN

    def moved(self) -> None:
        """The newest policy is the best so far."""
        if self.against_best:
            self.others = self._newest
