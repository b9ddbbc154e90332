"""The node of DDPO."""
from __future__ import annotations

from .node import CLIP_RANGE, WATCH_KL, TrainerNode


class PTDDPO(TrainerNode):
    DESCRIPTION = ("DDPO: policy gradient on the denoising steps, the classic for SD1.5 and SDXL with any reward. With "
                   "1 update per rollout it is DDPO-SF. arXiv:2305.13301")
    RATE, UPDATES = 3e-4, 2
    SETTINGS = {"clip_range": CLIP_RANGE, "watch_kl": WATCH_KL}

    @classmethod
    def kind(cls):
        from ...trainers.ddpo import DDPO
        return DDPO


NODES = {"PTDDPO": PTDDPO}
NAMES = {"PTDDPO": "DDPO"}
