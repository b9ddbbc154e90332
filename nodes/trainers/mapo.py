"""The node of MaPO."""
from __future__ import annotations

from .node import LEVELS, TrainerNode
from .preference_node import KEPT, SAFEGUARD, guarded


class PTMaPO(TrainerNode):
    DESCRIPTION = ("MaPO: learns from pairs without asking your model for comparison, so it is cheaper than Diffusion-DPO. "
                   "Good for a style. Needs pairs that you trust: nothing else holds it back. arXiv:2406.06424")
    RATE, UPDATES = 1e-4, 1
    SETTINGS = {
        "beta": ("FLOAT", {"min": 1e-6, "max": 1e4, "step": 0.01, "round": 1e-6, "tooltip": "Weight of the "
                 "margin between the two images against learning the better one."}),
        "levels": LEVELS, "safeguard": SAFEGUARD, "winner_keeps": KEPT}

    @classmethod
    def kind(cls):
        from ...trainers.mapo import MaPO
        return MaPO

    def settings(self, **own):
        return super().settings(**guarded(own))


NODES = {"PTMaPO": PTMaPO}
NAMES = {"PTMaPO": "MaPO"}
