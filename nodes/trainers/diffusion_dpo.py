"""The node of Diffusion-DPO."""
from __future__ import annotations

from .node import EMPTY_PROMPTS, LEVELS, TrainerNode
from .preference_node import KEPT, SAFEGUARD, USUAL, beta_input, guarded


class PTDiffusionDPO(TrainerNode):
    DESCRIPTION = ("Diffusion-DPO: learns to draw more like the better and less like the worse image of each pair. With "
                   "pairs from scores it is online DPO, with pairs from a folder or file the offline one. "
                   "arXiv:2311.12908")
    RATE, UPDATES = 3e-4, 4
    SETTINGS = {
        "beta": beta_input("How far pairs may move the model: higher stays nearer to your model. "
                     + USUAL.format(eps=5000, flow=100)),
        "levels": LEVELS, "safeguard": SAFEGUARD, "winner_keeps": KEPT}
    LATER = {"empty_prompts": EMPTY_PROMPTS}

    @classmethod
    def kind(cls):
        from ...trainers.diffusion_dpo import DiffusionDPO
        return DiffusionDPO

    def settings(self, **own):
        return super().settings(**guarded(own))


NODES = {"PTDiffusionDPO": PTDiffusionDPO}
NAMES = {"PTDiffusionDPO": "Diffusion-DPO"}
