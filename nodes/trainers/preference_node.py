"""Widgets of the trainers that learn from preferences."""
from __future__ import annotations

SAFEGUARD = ("BOOLEAN", {"default": False, "tooltip": "Diffusion-SDPO: the push away from the worse image is weakened where "
             "it would damage the better one. Off is the method as first published. arXiv:2511.03317"})
KEPT = ("FLOAT", {"default": 0.9, "min": 0.0, "max": 1.0, "step": 0.01, "tooltip": "Used by the safeguard: how much of its "
        "own pull the better image keeps at least. 0.9 for SD1.5, 0.6 for SDXL."})
STEP_CLIP = ("FLOAT", {"min": 1e-6, "max": 0.99, "step": 0.01, "round": 1e-6, "tooltip": "How far a step's "
             "likelihood may move from your model's before the pair no longer pulls on it."})


def beta_input(text: str) -> tuple:
    return ("FLOAT", {"max": 1e6, "step": 0.1, "round": 1e-6, "tooltip": text})


USUAL = ("0 takes the usual value: {eps} for noise prediction (SD1.5, SDXL), {flow} for v prediction and flow models (SD3, "
         "Flux).")


def guarded(own: dict) -> dict:
    """Settings with the safeguard's two widgets as the one number that the trainers know."""
    kept, on = own.pop("winner_keeps"), own.pop("safeguard")
    return own | {"safeguard": kept if on else None}
