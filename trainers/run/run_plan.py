"""What a run is asked to do: how long, how often things are kept and shown, when it ends early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...rewards.base.words import brief
from .folder import CONTINUE, START_OVER
from .stopping import BLIND, HELD_OUT, StopRule


@dataclass(frozen=True)
class RunPlan:
    """iterations: how many the run shall have in all. save_every: iterations between checkpoints. samples_every:
    iterations between sample grids, 0 for none. when_exists: one of folder.WHEN_EXISTS. stop: any of these rules ends it.
    continue_from: the iteration to go back to, 0 for none."""

    run_name: str
    iterations: int
    when_exists: str = CONTINUE
    save_every: int = 20
    samples_every: int = 10
    stop: tuple[StopRule, ...] = ()
    evaluation: Any = None
    continue_from: int = 0
    __repr__ = brief

    def __post_init__(self):
        if self.continue_from and self.when_exists == START_OVER:
            raise ValueError(
                f"continue_from: it is {self.continue_from}, but '{START_OVER}' in when_run_exists begins without a checkpoint; "
                f"set it to 0, or choose '{CONTINUE}'"
            )
        waits = [rule.when for rule in self.stop if rule.when in HELD_OUT]
        if waits and self.evaluation is None:
            raise ValueError(
                f"stop: the rule '{waits[0]}' needs held-out prompts; connect Evaluate While Training to "
                "'evaluation', or choose another rule"
            )
        if getattr(self.evaluation, "blind", None) is None and any(rule.when == BLIND for rule in self.stop):
            raise ValueError(
                f"stop: the rule '{BLIND}' needs blind comparisons; put Blind Comparison between Evaluate While Training and "
                "'evaluation', or choose another rule"
            )
