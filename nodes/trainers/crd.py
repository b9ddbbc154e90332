"""The node of CRD."""

from __future__ import annotations

from ..widgets import CHOICE
from .node import KL_WEIGHT, LEVELS, TrainerNode


class PTCRD(TrainerNode):
    DESCRIPTION = (
        "CRD: brings what the policy prefers among the images of a prompt near to what the reward prefers, and stops "
        "there. Works with any reward and images from any sampler; needs several images per prompt and a batch size "
        "of at least that many. arXiv:2603.14128"
    )
    RATE, UPDATES = 3e-4, 2
    SETTINGS = {
        "beta": (
            "FLOAT",
            {
                "min": 0.01,
                "max": 100.0,
                "step": 0.01,
                "tooltip": "How large the policy's own reward becomes: smaller goes further before it stops.",
            },
        ),
        "form": (
            CHOICE,
            {"tooltip": "How the two rewards are compared. squares is the official default; choices takes them as chances."},
        ),
        "temperature": (
            "FLOAT",
            {
                "max": 100.0,
                "step": 0.01,
                "tooltip": "0: an image is compared with the mean of its prompt. "
                "Above: once with the better and once with the worse ones; the smaller, the fewer of them.",
            },
        ),
        "kl_weight": KL_WEIGHT,
        "reference_guidance": (
            "FLOAT",
            {
                "max": 30.0,
                "step": 0.1,
                "tooltip": "Guidance scale (cfg) at which your model is asked "
                "for comparison. 1 is none; about 4.5 where you sample without guidance and the policy shall "
                "learn to do without.",
            },
        ),
        "levels": LEVELS,
        "rival_start": (
            "FLOAT",
            {
                "max": 1.0,
                "step": 0.01,
                "tooltip": "The policy is compared with a copy that follows it. How "
                "much of itself the copy keeps after the first iteration.",
            },
        ),
        "rival_rate": (
            "FLOAT",
            {"max": 1.0, "step": 1e-4, "round": 1e-6, "tooltip": "How much more it keeps with every optimizer step."},
        ),
        "rival_ceiling": ("FLOAT", {"max": 0.999, "step": 0.001, "tooltip": "How much it keeps at most."}),
        "old_start": ("INT", {"max": 100000, "tooltip": "Optimizer steps before the sampling policy begins to lag behind."}),
        "old_rate": (
            "FLOAT",
            {
                "max": 1.0,
                "step": 1e-4,
                "round": 1e-6,
                "tooltip": "How much more it lags with every optimizer "
                "step. 0: images are always sampled with the newest policy.",
            },
        ),
        "old_ceiling": ("FLOAT", {"max": 0.999, "step": 0.001, "tooltip": "How much it lags at most."}),
    }

    @classmethod
    def kind(cls):
        from ...trainers.crd import CRD

        return CRD


NODES = {"PTCRD": PTCRD}
NAMES = {"PTCRD": "CRD"}
