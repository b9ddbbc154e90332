"""Gradients through a half-precision network that do not vanish.

A reward's gradient on a pixel is often below what float16 can hold (6e-8). The gradient is multiplied by a power of two
where it enters the network from behind and divided by it where it leaves at the pixels: exact but for the rounding.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def through_half(network: Callable[[Tensor], Tensor], pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """network(pixels in dtype) as float32. With float16, gradients are scaled on their way through the network."""
    if dtype != torch.float16 or not (pixels.requires_grad and torch.is_grad_enabled()):
        return network(pixels.to(dtype)).float()
    return scaled(lambda pixels: network(pixels.to(dtype)).float(), pixels)


def scaled(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """function(*inputs), whose backward runs at a scale that float16 can hold; the result must be float32."""
    scale: list[float] = [1.0]
    return EnterScaled.apply(function(*(LeaveScaled.apply(x, scale) for x in inputs)), scale)


class EnterScaled(torch.autograd.Function):
    """Backward: chooses the power of two that brings the largest gradient near 1, and multiplies by it."""

    @staticmethod
    def forward(ctx, features, scale):
        ctx.scale = scale
        return features.clone()

    @staticmethod
    def backward(ctx, gradient):
        largest = gradient.abs().max().item()
        ctx.scale[0] = 2.0 ** -math.ceil(math.log2(largest)) if 0 < largest < math.inf else 1.0
        return gradient * ctx.scale[0], None


class LeaveScaled(torch.autograd.Function):
    """Backward: divides by what EnterScaled multiplied with."""

    @staticmethod
    def forward(ctx, pixels, scale):
        ctx.scale = scale
        return pixels.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.float() / ctx.scale[0], None
