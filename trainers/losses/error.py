"""The denoising error that the likelihood-free losses share."""
from __future__ import annotations

from torch import Tensor


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """[B, ...] x 2 -> [B]: mean over all dimensions but the first. The official betas belong to the mean, not the sum.

    prediction and target live in the network's own space (Path.prediction and Path.target: eps, v or velocity).
    """
    return (prediction - target).square().flatten(1).mean(1)
