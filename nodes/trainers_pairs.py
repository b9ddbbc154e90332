"""Trainers that learn from preferences: Diffusion-DPO, KTO, MaPO, D3PO, SPO."""
from __future__ import annotations

from .train import TrainerNode
from .trainers_matching import LEVELS

SAFEGUARD = ("BOOLEAN", {"default": True, "tooltip": "Diffusion-SDPO: the push away from the worse image is weakened where "
             "it would damage the better one. Off is the method as first published. arXiv:2511.03317"})
KEPT = ("FLOAT", {"default": 0.9, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": "Used by the safeguard: how much of its "
        "own pull the better image keeps at least. 0.9 for SD1.5, 0.6 for SDXL."})
STEP_CLIP = ("FLOAT", {"default": 0.1, "min": 1e-6, "max": 0.99, "step": 0.01, "round": 1e-6, "tooltip": "How far a step's "
             "likelihood may move from your model's before the pair no longer pulls on it."})


def beta(default: float, text: str) -> tuple:
    return ("FLOAT", {"default": default, "min": 0.0, "max": 1e6, "step": 0.1, "round": 1e-6, "tooltip": text})


USUAL = "0 takes the usual value: {eps} for noise and v prediction (SD1.5, SDXL), {flow} for flow models (SD3, Flux)."


def guarded(own: dict) -> dict:
    """Settings with the safeguard's two widgets as the one number that the trainers know."""
    kept, on = own.pop("winner_keeps"), own.pop("safeguard")
    return own | {"safeguard": kept if on else None}


class PTDiffusionDPO(TrainerNode):
    DESCRIPTION = ("Diffusion-DPO: learns to draw more like the better and less like the worse image of each pair. With "
                   "pairs from scores it is online DPO, with pairs from a folder or file the offline one. "
                   "arXiv:2311.12908")
    RATE, UPDATES = 3e-4, 4
    SETTINGS = {
        "beta": beta(0.0, "How far pairs may move the model: higher stays nearer to your model. "
                     + USUAL.format(eps=5000, flow=100)),
        "levels": LEVELS, "safeguard": SAFEGUARD, "winner_keeps": KEPT}

    def settings(self, **own):
        from ..trainers.pairs import DiffusionDPO
        return DiffusionDPO(**guarded(own))


class PTMaPO(TrainerNode):
    DESCRIPTION = ("MaPO: learns from pairs without asking your model for comparison, so it is cheaper than Diffusion-DPO. "
                   "Good for a style. Needs pairs that you trust: nothing else holds it back. arXiv:2406.06424")
    RATE, UPDATES = 1e-4, 1
    SETTINGS = {
        "beta": ("FLOAT", {"default": 0.1, "min": 1e-6, "max": 1e4, "step": 0.01, "round": 1e-6, "tooltip": "Weight of the "
                 "margin between the two images against learning the better one."}),
        "levels": LEVELS, "safeguard": SAFEGUARD, "winner_keeps": KEPT}

    def settings(self, **own):
        from ..trainers.pairs import MaPO
        return MaPO(**guarded(own))


class PTKTO(TrainerNode):
    DESCRIPTION = ("Diffusion-KTO: learns from thumbs up and down on single images. For feedback that comes without pairs. "
                   "arXiv:2404.04465")
    RATE, UPDATES = 3e-4, 4
    SETTINGS = {
        "beta": beta(0.0, "How far thumbs may move the model: higher stays nearer to your model. "
                     + USUAL.format(eps=1000, flow=20)),
        "levels": LEVELS,
        "balance": ("BOOLEAN", {"default": True, "tooltip": "Thumbs of the rarer kind weigh more, so that both kinds count "
                                "alike."})}

    def settings(self, **own):
        from ..trainers.thumbs import KTO
        return KTO(**own)


class PTD3PO(TrainerNode):
    DESCRIPTION = ("D3PO: makes every denoising step of the better image likelier than those of the worse one. Works with "
                   "the rollout's own random steps; for images from elsewhere steps are rebuilt. arXiv:2311.13231")
    RATE, UPDATES = 3e-4, 2
    SETTINGS = {
        "beta": ("FLOAT", {"default": 0.1, "min": 1e-6, "max": 1e6, "step": 0.01, "round": 1e-6, "tooltip": "How sharply a "
                 "pair counts. Higher loses interest sooner in pairs that are already well ordered."}),
        "clip_range": STEP_CLIP,
        "rebuilt_steps": ("INT", {"default": 10, "min": 1, "max": 98, "tooltip": "Only for images without their steps "
                          "(pairs from a folder, latents from a sampler): how many steps are rebuilt."})}

    def settings(self, **own):
        from ..trainers.step_pairs import D3PO
        return D3PO(**own)


class PTSPO(TrainerNode):
    DESCRIPTION = ("SPO: learns from pairs inside the denoising steps, where two candidates differ in one step only. Use "
                   "it with Step Rollout. arXiv:2406.04314")
    RATE, UPDATES = 3e-4, 2
    SETTINGS = {
        "beta": ("FLOAT", {"default": 10.0, "min": 1e-6, "max": 1e6, "step": 0.1, "round": 1e-6, "tooltip": "How sharply a "
                 "pair counts. Higher loses interest sooner in pairs that are already well ordered."}),
        "clip_range": STEP_CLIP,
        "weighting": (("all steps alike", "by noise"), {"tooltip": "Whether steps count alike, or as much as noise was added "
                      "in them: early steps then count more."})}

    def settings(self, **own):
        from ..trainers.step_pairs import SPO
        return SPO(**own)


NODES = {"PTDiffusionDPO": PTDiffusionDPO, "PTMaPO": PTMaPO, "PTKTO": PTKTO, "PTD3PO": PTD3PO, "PTSPO": PTSPO}
NAMES = {"PTDiffusionDPO": "Diffusion-DPO", "PTMaPO": "MaPO", "PTKTO": "Diffusion-KTO", "PTD3PO": "D3PO", "PTSPO": "SPO"}
