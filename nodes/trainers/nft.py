"""The node of DiffusionNFT."""
from __future__ import annotations

from .node import KL_WEIGHT, LEVELS, TrainerNode


class PTNFT(TrainerNode):
    DESCRIPTION = ("DiffusionNFT: pulls the policy towards its better images and away from its worse ones. Fast, works "
                   "with any reward and with images from any sampler: the recommended start for flow models. "
                   "arXiv:2509.16117")
    RATE, UPDATES = 3e-4, 1
    SETTINGS = {
        "beta": ("FLOAT", {"min": 0.01, "max": 10.0, "step": 0.01, "tooltip": "Smaller learns faster and "
                 "less steadily. 1 is safe, 0.1 is used with several rewards."}),
        "levels": LEVELS, "kl_weight": KL_WEIGHT,
        "old_start": ("INT", {"max": 100000, "tooltip": "Iterations before the sampling policy "
                      "begins to lag behind."}),
        "old_rate": ("FLOAT", {"max": 1.0, "step": 1e-4, "round": 1e-6, "tooltip": "How much "
                     "more it lags with every iteration. 0: images are always sampled with the newest policy."}),
        "old_ceiling": ("FLOAT", {"max": 0.999, "step": 0.001, "tooltip": "How much it lags at "
                        "most."})}

    @classmethod
    def kind(cls):
        from ...trainers.nft import NFT
        return NFT


NODES = {"PTNFT": PTNFT}
NAMES = {"PTNFT": "DiffusionNFT"}
