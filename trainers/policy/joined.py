"""A LoRA and its linear layer in one multiplication: x (W + s B A)^T + b, the sum made for this one call.

Many rows go through a layer at once, and for them the sum costs less than two small multiplications more of each row. The weight
itself is not touched, and no second copy of it is kept. Only in float32: in half precision a small LoRA would be rounded away in
the sum (docs/bench.md).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .frozen import is_simply_there, no_view
from .kinds import LORA, PAIR, RS_LORA, Member
from .layers import LINEAR, kind_of

PAYS = 4  # times the rows at which both ways take as many multiplications: a new matrix has to be written, too


def joins(layer: torch.nn.Module, member: Member) -> bool:
    """Whether the layer is a plain linear one of PyTorch's or the host's, adapted by nothing but a LoRA."""
    kind = type(layer)
    plain = kind.forward is torch.nn.Linear.forward or kind.__module__ == "comfy.ops"
    own = kind_of(layer) == LINEAR and isinstance(layer, torch.nn.Linear) and "forward" not in layer.__dict__
    return plain and own and member.kind in (LORA, RS_LORA) and member.parts == PAIR


def joined(layer: Any, scale: float, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor | None:
    """The adapted layer's answer to x [..., in]; None where the LoRA is better computed beside the layer.

    a: [rank, in]; b: [out, rank]; the answer depends on x's shape and types alone in which way it takes, so a rollout and the
    update that follows it in batches of one size take the same.
    """
    weight = layer._parameters["weight"]
    floats = weight is not None and {x.dtype, weight.dtype, a.dtype, b.dtype} == {torch.float32}
    if not floats or not x.shape[-1] or torch.get_float32_matmul_precision() != "highest" or torch.compiler.is_compiling():
        return None
    rows, (outs, ins) = x.numel() // x.shape[-1], weight.shape
    if rows * (ins + outs) < PAYS * ins * outs or not is_simply_there(layer, x):
        return None
    return _Joined.apply(x, a, b, weight, layer._parameters["bias"], scale)


def _sum(weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    return torch.addmm(weight, b, a, alpha=scale)


class _Joined(torch.autograd.Function):
    """Its backward makes the sum once more, and keeps what a LoRA beside its layer keeps, less A x."""

    @staticmethod
    def forward(ctx, x, a, b, weight, bias, scale):
        ctx.save_for_backward(x, a, b, weight)
        ctx.scale = scale
        return no_view(F.linear(x, _sum(weight, a, b, scale), bias), x)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, a, b, weight = ctx.saved_tensors
        of_x, of_a, of_b, *_ = ctx.needs_input_grad
        flat, rows = gradient.reshape(-1, gradient.shape[-1]), x.reshape(-1, x.shape[-1])
        found_x = (flat @ _sum(weight, a, b, ctx.scale)).view(x.shape) if of_x else None
        found_a = torch.mm((flat @ b).T, rows).mul_(ctx.scale) if of_a else None
        found_b = torch.mm(flat.T, rows @ a.T).mul_(ctx.scale) if of_b else None
        return found_x, found_a, found_b, None, None, None
