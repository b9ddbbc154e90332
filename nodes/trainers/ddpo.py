"""The node of DDPO."""
from __future__ import annotations

from .node import WATCH_KL, TrainerNode, clip_range_input


class PTDDPO(TrainerNode):
    DESCRIPTION = ("DDPO: policy gradient on the denoising steps, the classic for SD1.5 and SDXL with any reward. With "
                   "1 update per rollout it is DDPO-SF. arXiv:2305.13301")
    RATE, UPDATES = 3e-4, 2
    SETTINGS = {"clip_range": clip_range_input(1e-9), "watch_kl": WATCH_KL}

    def settings(self, **own):
        from ...trainers.ddpo import DDPO
        return DDPO(**own)


NODES = {"PTDDPO": PTDDPO}
NAMES = {"PTDDPO": "DDPO"}
