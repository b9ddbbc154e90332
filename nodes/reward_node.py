"""What every node that makes a reward has in common."""
from __future__ import annotations

CATEGORY = "PostTrain/4 Rewards"


class RewardNode:
    CATEGORY = CATEGORY
    FUNCTION = "run"
    RETURN_TYPES: tuple[str, ...] = ("PT_REWARD",)
    RETURN_NAMES: tuple[str, ...] = ("reward",)
    OUTPUT_TOOLTIPS: tuple[str, ...] = ("Wire it into Score, an ensemble or a trainer.",)
