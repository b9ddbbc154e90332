"""What the nodes that make a reward have in common."""
from __future__ import annotations

from ..sockets import MENU, REWARD

CATEGORY = f"{MENU}/4 Rewards"
AUTO_TIP = "auto looks for the published name (see the node's help); or choose a file of models/reward_models."
BATCH = ("INT", {"default": 16, "min": 1, "max": 1024, "tooltip":
        "Images computed at once. Lower it when memory runs out; the scores stay the same."})


class RewardNode:
    CATEGORY = CATEGORY
    FUNCTION = "run"
    RETURN_TYPES: tuple[str, ...] = (REWARD,)
    RETURN_NAMES: tuple[str, ...] = ("reward",)
    OUTPUT_TOOLTIPS: tuple[str, ...] = ("Wire it into Score, an ensemble or a trainer.",)


class ModelNode(RewardNode):
    """A reward with a network that is chosen in the menu "model"."""

    @classmethod
    def VALIDATE_INPUTS(cls, model):
        # a file that is not here is explained when the node runs: name, place and size in one message
        return True


def model_input(*folders: str, folder: bool = False, tooltip: str = AUTO_TIP) -> tuple:
    """The menu of model files (or folders); it is never empty, so that a workflow opens without any model."""
    from ...rewards.learned.holder import menu
    return menu(*folders, folder=folder), {"tooltip": tooltip}


def precision_input() -> tuple:
    from ...rewards.learned.holder import PRECISIONS
    return list(PRECISIONS), {"tooltip": "auto: half precision where the device is fast at it. Similarities are "
                                         "always computed in 32 bit."}
