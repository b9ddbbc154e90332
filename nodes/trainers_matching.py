"""Trainers that need only finished images and scores: DiffusionNFT, AWM, DGPO, reward-weighted regression."""
from __future__ import annotations

from .train import TrainerNode

LEVELS = ("INT", {"default": 4, "min": 1, "max": 64, "tooltip": "Noise levels at which each image is used. More is "
          "steadier and costs in proportion."})


def kl_weight(default: float) -> tuple:
    return ("FLOAT", {"default": default, "min": 0.0, "max": 1000.0, "step": 1e-4, "round": 1e-7,
            "tooltip": "Holds the policy near your model. 0 is off and saves an evaluation; raise it when pictures lose "
                       "quality while the reward rises."})


class PTNFT(TrainerNode):
    DESCRIPTION = ("DiffusionNFT: pulls the policy towards its better images and away from its worse ones. Fast, works "
                   "with any reward and with images from any sampler: the recommended start for flow models. "
                   "arXiv:2509.16117")
    RATE, UPDATES = 3e-4, 1
    SETTINGS = {
        "beta": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 10.0, "step": 0.01, "tooltip": "Smaller learns faster and "
                 "less steadily. 1 is safe, 0.1 is used with several rewards."}),
        "levels": LEVELS, "kl_weight": kl_weight(1e-4),
        "old_start": ("INT", {"default": 0, "min": 0, "max": 100000, "tooltip": "Iterations before the sampling policy "
                      "begins to lag behind."}),
        "old_rate": ("FLOAT", {"default": 1e-3, "min": 0.0, "max": 1.0, "step": 1e-4, "round": 1e-6, "tooltip": "How much "
                     "more it lags with every iteration. 0: images are always sampled with the newest policy."}),
        "old_ceiling": ("FLOAT", {"default": 0.5, "min": 0.0, "max": 0.999, "step": 0.001, "tooltip": "How much it lags at "
                        "most."})}

    def settings(self, **own):
        from ..trainers.forward_process import NFT
        return NFT(**own)


class PTAWM(TrainerNode):
    DESCRIPTION = ("Advantage weighted matching: the loss your model was pretrained with, weighted by how good each image "
                   "is. Very fast, less forgiving than DiffusionNFT. arXiv:2509.25050")
    RATE, UPDATES = 3e-4, 1
    SETTINGS = {
        "weighting": (("ghuber", "uniform", "t", "t squared", "huber"), {"tooltip": "How noise levels are balanced. ghuber "
                      "is the paper's."}),
        "clip_range": ("FLOAT", {"default": 1.0, "min": 1e-6, "max": 100.0, "step": 1e-3, "round": 1e-7,
                       "tooltip": "How far one rollout may move the policy. On another scale than Flow-GRPO's: 1 hardly "
                                  "ever acts."}),
        "ema_beta": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 100.0, "step": 0.01, "tooltip": "Holds the policy near "
                     "what it was a few iterations ago. The main brake of this trainer; 0 is off."}),
        "beta": kl_weight(1e-3), "levels": (LEVELS[0], {**LEVELS[1], "default": 6})}

    def settings(self, **own):
        from ..trainers.forward_process import AWM
        return AWM(**own)


class PTDGPO(TrainerNode):
    DESCRIPTION = ("DGPO: the better part of each prompt's images is preferred to the worse part. Needs several images per "
                   "prompt and a batch size of at least that many. arXiv:2510.08425")
    RATE, UPDATES = 3e-4, 1
    SETTINGS = {
        "beta": ("FLOAT", {"default": 100.0, "min": 0.01, "max": 100000.0, "step": 1.0, "tooltip": "How quickly a group "
                 "that is already well ordered counts less. 10 to 100."}),
        "clip_range": ("FLOAT", {"default": 1e-3, "min": 0.0, "max": 1.0, "step": 1e-5, "round": 1e-7, "tooltip": "Images "
                       "that one rollout has already moved this far are left alone, so it acts from its second update on. 0 is "
                       "off."}),
        "kl_weight": kl_weight(1e-3), "levels": LEVELS}

    def settings(self, **own):
        from ..trainers.forward_process import DGPO
        return DGPO(**own)


class PTRWR(TrainerNode):
    DESCRIPTION = ("Reward-weighted regression: fine-tunes on the policy's own images, the better ones weighted more. The "
                   "simplest trainer and a useful comparison. arXiv:2305.13301")
    RATE, UPDATES = 3e-4, 1
    SETTINGS = {
        "sharpness": ("FLOAT", {"default": 5.0, "min": 0.0, "max": 10000.0, "step": 0.1, "tooltip": "How much more a better "
                      "image weighs: it multiplies the raw score, so suit it to the reward's range. 0 treats all "
                      "alike."}),
        "among": (("each prompt", "all images", "best tenth only"), {"tooltip": "Which images are weighed against each "
                  "other."}),
        "levels": LEVELS}

    def settings(self, **own):
        from ..trainers.forward_process import RWR
        return RWR(**own)


NODES = {"PTNFT": PTNFT, "PTAWM": PTAWM, "PTDGPO": PTDGPO, "PTRWR": PTRWR}
NAMES = {"PTNFT": "DiffusionNFT", "PTAWM": "Advantage Weighted Matching", "PTDGPO": "DGPO", "PTRWR": "Reward-Weighted Regression"}
