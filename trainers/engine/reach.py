"""Whether the gradient reaches every trained layer: an attention kernel without a backward cuts it off and says nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..policy.value import Bank

PROBE = 0.05  # size of the weights that are tried in a layer without a gradient
SHOWN = 3


def check_reach(bank: Bank, loss_of: Callable[[], torch.Tensor]) -> None:
    """RuntimeError, in words, where a layer received no gradient although the loss depends on it.

    bank: leaves after a backward pass, "<layer>.lora_B" still zero; loss_of(): the same loss again, without gradient. A layer
    that never reaches the model's answer (the last block of some networks has such ones) can have none and is no fault.
    Costs nothing where every layer has a gradient, else two evaluations of the loss; and where these differ one more, and one
    for each layer without.
    """
    outputs = [key for key in bank if key.endswith(".lora_B")]
    gradients = {key: bank[key].grad for key in outputs}
    there = {key: gradient.any() for key, gradient in gradients.items() if gradient is not None}
    moved = dict(zip(there, torch.stack(list(there.values())).tolist())) if there else {}  # one wait for the device, not many
    without = [key for key in gradients if not moved.get(key)]
    if not without or len(without) == len(outputs):
        return
    cut = _cut_off(bank, without, loss_of)
    if cut:
        names = ", ".join(key.removesuffix(".lora_B") for key in cut[:SHOWN]) + (" ..." if len(cut) > SHOWN else "")
        raise RuntimeError(
            f"The gradient does not reach {len(cut)} of {len(outputs)} trained layers ({names}), "
            "so they would not learn. An attention without a backward is on: start ComfyUI without --use-sage-attention or "
            "--use-flash-attention, and connect the model from before a node that patches its attention (Patch Sage Attention)"
        )


@torch.no_grad()
def _cut_off(bank: Bank, without: list[str], loss_of: Callable[[], torch.Tensor]) -> list[str]:
    """Those of the layers whose weights move the loss by more than it moves by itself."""
    first = float(loss_of())
    if _with_others(bank, without, loss_of) == first:
        return []
    least = 1e-6 * max(1.0, abs(first)) + 10 * abs(float(loss_of()) - first)
    return [key for key in without if not abs(_with_others(bank, [key], loss_of) - first) <= least]


def _with_others(bank: Bank, keys: list[str], loss_of: Callable[[], torch.Tensor]) -> float:
    """The loss with other weights in these layers."""
    before = {key: bank[key].clone() for key in keys}
    for key in keys:
        bank[key].copy_(PROBE * torch.randn(bank[key].shape, generator=torch.Generator().manual_seed(0)))
    try:
        return float(loss_of())
    finally:
        for key, weight in before.items():
            bank[key].copy_(weight)
