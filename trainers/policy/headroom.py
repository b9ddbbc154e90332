"""Room above the gradients of a network in float16, which holds nothing beyond 65,504.

Gradients enter it near 1, and what it multiplies them by can be more than that. Where they overflow they are made smaller by
powers of two, as a loss scaler does it: exact but for what then lies below 6e-8.
"""

from __future__ import annotations

import logging

import torch

LESS = 2.0**-8
LEAST = 2.0**-16  # below it, what overflows is not the scale's fault
SCALE = "gradient scale"  # its place in the policy's memory, which a run's checkpoints keep


class Headroom:
    """factor: what the largest gradient has where it enters the network, in place of 1."""

    def __init__(self, dtype: torch.dtype):
        self.factor, self._dtype = 1.0, dtype

    def of_run(self, memory: dict) -> None:
        """Begins where the run of a policy with this memory has ended."""
        self.factor = float(memory.get(SCALE, 1.0))

    def remembered(self, memory: dict) -> dict:
        return memory if self.factor == 1.0 else {**memory, SCALE: self.factor}

    def more(self) -> bool:
        """Makes gradients smaller from here on. False where that is of no use."""
        if self._dtype != torch.float16 or self.factor <= LEAST:
            return False
        self.factor *= LESS
        logging.warning(
            "PostTrain: gradients were too large for float16; from here on they are made %.0f times smaller.", 1 / self.factor
        )
        return True
