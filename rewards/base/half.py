"""Gradients through a half-precision network that do not vanish.

A reward's gradient on a pixel is often below what float16 can hold (6e-8). The gradient is multiplied by a power of two
where it enters the network from behind and divided by it where it leaves at the pixels: exact but for the rounding. It is
chosen on the device, from each gradient anew, so nothing waits for it and no step is lost to a scale that was too large.
"""
from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

EXPONENT = 0x7F800000  # the bits of a float32 that hold its power of two
TINY, HUGE = 1e-30, 1e30


def through_half(network: Callable[[Tensor], Tensor], pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """network(pixels in dtype) as float32. With float16, gradients are scaled on their way through the network."""
    if dtype != torch.float16 or not (pixels.requires_grad and torch.is_grad_enabled()):
        return network(pixels.to(dtype)).float()
    return scaled(lambda pixels: network(pixels.to(dtype)).float(), pixels)


def scaled(function: Callable[..., Tensor], *inputs: Tensor, largest: float = 1.0) -> Tensor:
    """function(*inputs), whose backward runs at a scale that float16 can hold; the result must be float32.

    largest: a power of two, what the largest gradient is brought near to.
    """
    scale: list[Tensor] = []
    return EnterScaled.apply(function(*LeaveScaled.apply(scale, *inputs)), scale, largest)


def power_of_two(gradients: list[Tensor], largest: float = 1.0) -> Tensor:
    """[]: what brings the largest of them near ``largest``, float32, where they are; 1 where it is no number, near 0 or huge."""
    found = [gradient.abs().max().float() for gradient in gradients if gradient.numel()]
    here = torch.stack(found).max() if found else torch.zeros(())
    below = here.view(torch.int32).bitwise_and(EXPONENT).view(torch.float32)
    usable = (here > TINY) & (here < HUGE)
    return torch.where(usable, 0.5 * largest / below, torch.ones_like(below))


def over(gradients: list[Tensor | None], scale: Tensor) -> list[Tensor | None]:
    """gradients / scale, in float32."""
    there = [gradient.float() for gradient in gradients if gradient is not None]
    inverse: Tensor = scale.reciprocal()
    found = iter(list(torch._foreach_mul(there, inverse)) if there else [])
    return [None if gradient is None else next(found) for gradient in gradients]


class EnterScaled(torch.autograd.Function):
    """Backward: chooses the power of two that brings the largest gradient near ``largest``, and multiplies by it."""

    @staticmethod
    def forward(ctx, features, scale, largest):
        ctx.scale, ctx.largest = scale, largest
        return features.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.scale[:] = [power_of_two([gradient], ctx.largest)]
        return gradient * ctx.scale[0], None, None


class LeaveScaled(torch.autograd.Function):
    """Backward: divides by what EnterScaled multiplied with. One for all inputs, which it copies no more than it must."""

    @staticmethod
    def forward(ctx, scale, *inputs):
        ctx.scale = scale
        ctx.set_materialize_grads(False)
        return tuple(each.view_as(each) for each in inputs)

    @staticmethod
    def backward(ctx, *gradients):
        return None, *over(list(gradients), ctx.scale[0])
