"""The node of DRaFT."""
from __future__ import annotations

from .backprop_node import BackpropNode


class PTDRaFT(BackpropNode):
    DESCRIPTION = ("DRaFT: changes the picture directly towards a higher reward, by the reward's own gradient through the "
                   "last sampling steps. Learns from very few images, but needs a differentiable reward. "
                   "arXiv:2309.17400")
    RATE, UPDATES = 3e-4, 1
    RENAMED = {"backprop_steps": "steps"}
    SETTINGS = {
        "backprop_steps": ("INT", {"max": 4096, "tooltip": "How many of the last sampling steps "
                           "carry gradient. 1 is cheap, steady and changes details and colours; more reach the composition. "
                           "0: all of them."}),
        "extra_noises": ("INT", {"max": 64, "tooltip": "DRaFT-LV: the finished image is noised and "
                         "finished again this many times, which steadies the gradient. Only with 1 step; 2 is usual."}),
        "kl_weight": ("FLOAT", {"max": 1000.0, "step": 0.01, "round": 1e-6, "tooltip": "Holds the "
                      "policy near your model at the steps with gradient. 0 is off; raise it when pictures become "
                      "strange while the reward rises."})}

    @classmethod
    def kind(cls):
        from ...trainers.draft import DRaFT
        return DRaFT


NODES = {"PTDRaFT": PTDRaFT}
NAMES = {"PTDRaFT": "DRaFT"}
