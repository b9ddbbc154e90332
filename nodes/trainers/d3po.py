"""The node of D3PO."""
from __future__ import annotations

from .node import TrainerNode
from .preference_node import STEP_CLIP


class PTD3PO(TrainerNode):
    DESCRIPTION = ("D3PO: makes every denoising step of the better image likelier than those of the worse one. Works with "
                   "the rollout's own random steps; for images from elsewhere steps are rebuilt. arXiv:2311.13231")
    RATE, UPDATES = 3e-4, 2
    SETTINGS = {
        "beta": ("FLOAT", {"min": 1e-6, "max": 1e6, "step": 0.01, "round": 1e-6, "tooltip": "How sharply a "
                 "pair counts. Higher loses interest sooner in pairs that are already well ordered."}),
        "clip_range": STEP_CLIP,
        "rebuilt_steps": ("INT", {"max": 98, "tooltip": "Only for images without their steps "
                          "(pairs from a folder, latents from a sampler): how many steps are rebuilt."})}

    @classmethod
    def kind(cls):
        from ...trainers.d3po import D3PO
        return D3PO


NODES = {"PTD3PO": PTD3PO}
NAMES = {"PTD3PO": "D3PO"}
