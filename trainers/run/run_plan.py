"""What a run is asked to do: how long, how often things are kept and shown, when it ends early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...rewards.base.words import brief
from .folder import CONTINUE
from .stopping import HELD_OUT, StopRule


@dataclass(frozen=True)
class RunPlan:
    """iterations: how many the run shall have in all. save_every: iterations between checkpoints. samples_every:
    iterations between sample grids, 0 for none. when_exists: one of folder.WHEN_EXISTS. stop: any of these rules ends it."""

    run_name: str
    iterations: int
    when_exists: str = CONTINUE
    save_every: int = 20
    samples_every: int = 10
    stop: tuple[StopRule, ...] = ()
    evaluation: Any = None
    __repr__ = brief

    def __post_init__(self):
        waits = [rule.when for rule in self.stop if rule.when in HELD_OUT]
        if waits and self.evaluation is None:
            raise ValueError(
                f"stop: the rule '{waits[0]}' needs held-out prompts; connect Evaluate While Training to "
                "'evaluation', or choose another rule"
            )
