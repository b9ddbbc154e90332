"""A reward that gives the same score to every image, or these to these."""

from __future__ import annotations

import torch
from posttrain.rewards.base.reward import RewardInfo


class Constant:
    def __init__(self, value, low=0.0, high=1.0, prompt=False, grad=True, name="constant"):
        self.value, self.info = value, RewardInfo(name, low, high, prompt, grad, "")

    def __call__(self, images, prompts):
        return torch.as_tensor(self.value).expand(images.shape[0]).clone()
