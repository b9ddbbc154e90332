"""The node of SPO."""
from __future__ import annotations

from ..widgets import CHOICE
from .node import TrainerNode
from .preference_node import STEP_CLIP


class PTSPO(TrainerNode):
    DESCRIPTION = ("SPO: learns from pairs inside the denoising steps, where two candidates differ in one step only. Use "
                   "it with Step Rollout. arXiv:2406.04314")
    RATE, UPDATES = 3e-4, 2
    SETTINGS = {
        "beta": ("FLOAT", {"min": 1e-6, "max": 1e6, "step": 0.1, "round": 1e-6, "tooltip": "How sharply a "
                 "pair counts. Higher loses interest sooner in pairs that are already well ordered."}),
        "clip_range": STEP_CLIP,
        "weighting": (CHOICE, {"tooltip": "Whether steps count alike, or as much as noise was added "
                      "in them: early steps then count more."})}

    @classmethod
    def kind(cls):
        from ...trainers.spo import SPO
        return SPO


NODES = {"PTSPO": PTSPO}
NAMES = {"PTSPO": "SPO"}
