"""The heads of golden case 07d: their weights are a formula, not stored."""
from __future__ import annotations

import torch

SIZES = (768, 1024, 128, 64, 16, 1)


def generated_head(seed: int) -> dict[str, torch.Tensor]:
    """layers.<l>.weight / bias in float32, by the formula of the golden file."""
    head = {}
    for layer, (inputs, outputs) in enumerate(zip(SIZES, SIZES[1:])):
        i, j = torch.arange(outputs)[:, None], torch.arange(inputs)[None]
        mixed = (i * 7919 + j * 104729 + layer * 1299709 + seed) % 2003
        head[f"layers.{layer}.weight"] = ((mixed.double() / 2003 - 0.5) * 8 / inputs**0.5).float()
        biased = (torch.arange(outputs) * 31 + layer * 17 + seed) % 101
        head[f"layers.{layer}.bias"] = ((biased.double() / 101 - 0.5) * 0.2).float()
    return head
