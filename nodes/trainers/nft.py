"""The node of DiffusionNFT."""
from __future__ import annotations

from .node import LEVELS, TrainerNode, kl_weight_input


class PTNFT(TrainerNode):
    DESCRIPTION = ("DiffusionNFT: pulls the policy towards its better images and away from its worse ones. Fast, works "
                   "with any reward and with images from any sampler: the recommended start for flow models. "
                   "arXiv:2509.16117")
    RATE, UPDATES = 3e-4, 1
    SETTINGS = {
        "beta": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 10.0, "step": 0.01, "tooltip": "Smaller learns faster and "
                 "less steadily. 1 is safe, 0.1 is used with several rewards."}),
        "levels": LEVELS, "kl_weight": kl_weight_input(1e-4),
        "old_start": ("INT", {"default": 0, "min": 0, "max": 100000, "tooltip": "Iterations before the sampling policy "
                      "begins to lag behind."}),
        "old_rate": ("FLOAT", {"default": 1e-3, "min": 0.0, "max": 1.0, "step": 1e-4, "round": 1e-6, "tooltip": "How much "
                     "more it lags with every iteration. 0: images are always sampled with the newest policy."}),
        "old_ceiling": ("FLOAT", {"default": 0.5, "min": 0.0, "max": 0.999, "step": 0.001, "tooltip": "How much it lags at "
                        "most."})}

    def settings(self, **own):
        from ...trainers.nft import NFT
        return NFT(**own)


NODES = {"PTNFT": PTNFT}
NAMES = {"PTNFT": "DiffusionNFT"}
