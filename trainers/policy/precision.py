"""Whether a LoRA is large enough for the precision in which the network computes."""

from __future__ import annotations

import math

import torch

from .kinds import Member
from .weights import is_plain

SAMPLED = 8  # layers whose weights are read


@torch.no_grad()
def share_shown(
    layers: dict[str, torch.nn.Module], bank: dict[str, torch.Tensor], members: dict[str, Member], dtype: torch.dtype
) -> float:
    """How much of the LoRA's effect the network's answers show, 0 to 1; NaN where no layer's weight is a plain number, and of
    kinds without A and B.

    bank: "<layer>.lora_A" [rank, ...] and "<layer>.lora_B" [out, rank]; members: of its layers; dtype: what the network computes
    in. Each layer rounds what it adds up, so a change of its weights far below ``eps(dtype)`` of them drowns. With v = median
    over layers of |scale B A| / (eps |W|), Frobenius norms, the cosine between the change that shows and the true one is
    about v / sqrt(1 + v^2) (measured with random LoRAs on small SD3, Flux and SDXL networks in bfloat16 and float16).
    """
    weights = {name: getattr(layer, "weight", None) for name, layer in layers.items()}
    names = [
        name
        for name, weight in weights.items()
        if weight is not None and is_plain(weight) and weight.dtype.itemsize > 1 and f"{name}.lora_A" in bank
    ]
    ratios = []
    for name in names[:: max(1, len(names) // SAMPLED)]:
        a, b = (bank[f"{name}.{part}"].flatten(1).float() for part in ("lora_A", "lora_B"))
        change = members[name].scale * float(((b.T @ b) * (a @ a.T)).sum().clamp_min(0).sqrt())  # |B A| without making B A
        ratios.append(change / max(float(torch.linalg.vector_norm(weights[name], dtype=torch.float32)), 1e-30))
    if not ratios:
        return math.nan
    v = float(torch.tensor(ratios).median()) / torch.finfo(dtype).eps
    return v / math.sqrt(1 + v * v)
