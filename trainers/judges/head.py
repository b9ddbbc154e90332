"""A small network of one hidden layer on features: the judge of a step reward, the baseline of DPOK."""
from __future__ import annotations

import torch
import torch.nn.functional as F

from ..policy.value import Bank

HIDDEN = 64
TRAINED = ("in.weight", "in.bias", "out.weight")


def new_head(inputs: torch.Tensor, random: torch.Generator, least_std: float = 1e-4) -> Bank:
    """Fresh weights for inputs [N, F], whose mean and spread (no smaller than least_std) it keeps to normalise by."""
    std, mean = torch.std_mean(inputs, 0)
    return {"mean": mean, "std": std.clamp_min(least_std),
            "in.weight": torch.randn(HIDDEN, inputs.shape[1], generator=random) / inputs.shape[1] ** 0.5,
            "in.bias": torch.zeros(HIDDEN), "out.weight": torch.randn(1, HIDDEN, generator=random) / HIDDEN ** 0.5}


def head(weights: Bank, inputs: torch.Tensor) -> torch.Tensor:
    """[N, F] -> [N]."""
    normal = (inputs - weights["mean"]) / weights["std"]
    return F.linear(F.silu(F.linear(normal, weights["in.weight"], weights["in.bias"])), weights["out.weight"])[:, 0]


def head_inputs(features: torch.Tensor, noise_share: torch.Tensor) -> torch.Tensor:
    """[N, F + 1] of features [N, F] and how much of each state is noise, [N] in 0..1."""
    return torch.cat([features, noise_share[:, None].to(features)], 1)
