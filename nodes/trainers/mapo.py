"""The node of MaPO."""
from __future__ import annotations

from .node import EMPTY_PROMPTS, LEVELS, TrainerNode
from .preference_node import KEPT, SAFEGUARD, guarded


class PTMaPO(TrainerNode):
    DESCRIPTION = ("MaPO: learns from pairs without asking your model for comparison, so it is cheaper than Diffusion-DPO. "
                   "Good for a style. Needs pairs that you trust: nothing else holds it back. arXiv:2406.06424")
    RATE, UPDATES = 1e-4, 1
    SETTINGS = {
        "beta": ("FLOAT", {"min": 1e-6, "max": 1e4, "step": 0.01, "round": 1e-6, "tooltip": "Weight of the "
                 "margin between the two images against learning the better one."}),
        "levels": LEVELS, "safeguard": SAFEGUARD, "winner_keeps": KEPT}
    LATER = {
        "empty_prompts": EMPTY_PROMPTS,
        "scale": ("FLOAT", {"min": 1e-6, "max": 1e3, "step": 0.1, "round": 1e-6, "tooltip": "How fast an image counts as "
                  "less likely while its error rises. 0.5 is the official code's."}),
        "temperature": ("FLOAT", {"min": 1e-3, "max": 1e6, "step": 10.0, "round": 1e-3, "tooltip": "How sharply better is told "
                        "from worse. 1000 is the official code's; lower it where all pairs are told apart after a few "
                        "steps."})}

    @classmethod
    def kind(cls):
        from ...trainers.mapo import MaPO
        return MaPO

    def settings(self, **own):
        return super().settings(**guarded(own))


NODES = {"PTMaPO": PTMaPO}
NAMES = {"PTMaPO": "MaPO"}
