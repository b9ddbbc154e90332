"""Which modules are linear layers and convolutions, told by what they do: hosts and packs have their own classes for them.

Sizes come from the module's own description, never from its weight, which may be packed, quantised or not there yet.
"""
from __future__ import annotations

import torch

LINEAR, CONVOLUTION = "linear", "convolution"


def kind_of(module: torch.nn.Module) -> str | None:
    """LINEAR for y = W x + b, CONVOLUTION for its counterpart on maps, None for everything else."""
    if not _has_weight(module) or type(module).forward is torch.nn.Module.forward:  # a bank of experts has no forward
        return None
    if _whole(module, "in_features", "out_features"):
        return LINEAR
    size = getattr(module, "kernel_size", None)
    flat = isinstance(size, tuple) and len(size) == 2 and not getattr(module, "transposed", False)
    if flat and _whole(module, "in_channels", "out_channels", "groups") and hasattr(module, "stride"):
        return CONVOLUTION
    return None


def lora_shapes(layer: torch.nn.Module, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of A and B for a layer that ``kind_of`` knows."""
    if kind_of(layer) == LINEAR:
        return (rank, layer.in_features), (layer.out_features, rank)
    return (rank, layer.in_channels, *layer.kernel_size), (layer.out_channels, rank, 1, 1)


def layer_shapes(network: torch.nn.Module) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Name of every layer that ``kind_of`` knows, in the network's own order -> shapes of A and B at rank 1."""
    return {name: lora_shapes(module, 1) for name, module in network.named_modules() if kind_of(module) is not None}


def weight_kinds(model: torch.nn.Module) -> str:
    """In words, for messages: which classes with a weight the model is made of, the commonest first."""
    names = [type(m).__name__ for m in model.modules() if _has_weight(m)]
    return ", ".join(sorted(set(names), key=lambda name: -names.count(name))[:6]) or "none with a weight"


def _has_weight(module: torch.nn.Module) -> bool:
    return module._parameters.get("weight") is not None or isinstance(module.__dict__.get("weight"), torch.Tensor)


def _whole(module: torch.nn.Module, *names: str) -> bool:
    return all(isinstance(getattr(module, name, None), int) for name in names)
