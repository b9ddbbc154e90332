"""The node of Diffusion-KTO."""
from __future__ import annotations

from .node import EMPTY_PROMPTS, LEVELS, TrainerNode
from .preference_node import USUAL, beta_input


class PTKTO(TrainerNode):
    DESCRIPTION = ("Diffusion-KTO: learns from thumbs up and down on single images. For feedback that comes without pairs. "
                   "arXiv:2404.04465")
    RATE, UPDATES = 3e-4, 4
    SETTINGS = {
        "beta": beta_input("How far thumbs may move the model: higher stays nearer to your model. "
                     + USUAL.format(eps=1000, flow=20)),
        "levels": LEVELS,
        "balance": ("BOOLEAN", {"tooltip": "Thumbs of the rarer kind weigh more, so that both kinds count "
                                "alike."})}
    LATER = {"empty_prompts": EMPTY_PROMPTS}

    @classmethod
    def kind(cls):
        from ...trainers.kto import KTO
        return KTO


NODES = {"PTKTO": PTKTO}
NAMES = {"PTKTO": "Diffusion-KTO"}
