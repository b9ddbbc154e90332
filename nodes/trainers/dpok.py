"""The node of DPOK."""
from __future__ import annotations

from .node import CLIP_RANGE, TrainerNode


class PTDPOK(TrainerNode):
    DESCRIPTION = ("DPOK: policy gradient with an exact pull to your model at each step. Steadier and slower than DDPO. "
                   "arXiv:2305.16381")
    RATE, UPDATES = 1e-5, 2
    SETTINGS = {
        "clip_range": CLIP_RANGE,
        "reward_weight": ("FLOAT", {"min": 0.001, "max": 1e6, "step": 1.0, "tooltip": "Weight of the "
                          "reward against the pull."}),
        "kl_weight": ("FLOAT", {"max": 1000.0, "step": 0.001, "round": 1e-6, "tooltip":
                      "Weight of the pull to your model."}),
        "value_steps": ("INT", {"max": 10000, "tooltip": "Steps in which a value baseline learns "
                        "from each rollout what reward to expect of a half-drawn image; images that do better become likelier. "
                        "It then takes the place of the advantage rule and works with one image per prompt. 0: off; 10 is "
                        "a good start."})}

    @classmethod
    def kind(cls):
        from ...trainers.dpok import DPOK
        return DPOK


NODES = {"PTDPOK": PTDPOK}
NAMES = {"PTDPOK": "DPOK"}
