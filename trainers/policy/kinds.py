"""How a layer is adapted, and what that computes: a LoRA, its relatives by the host's own trainable adapters, a bias.

LoRA (arXiv:2106.09685): W + (alpha / rank) B A. rsLoRA (arXiv:2312.03732) is the same with alpha / sqrt(rank). LoHa and LoKr
(arXiv:2309.14859) add a Hadamard and a Kronecker product to W; OFT (arXiv:2306.07280) turns W's outputs by an orthogonal matrix.
None of them looks at W: what is added is computed beside it, and a turned output is made of the layer's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.weight_adapter
import torch
import torch.nn.functional as F
from torch.func import functional_call

from ...rewards.base.words import brief
from .layers import LINEAR, kind_of, lora_shapes

LORA, RS_LORA, HOSTS = "LoRA", "rsLoRA", ("LoHa", "LoKr", "OFT")
KINDS = (LORA, RS_LORA, *HOSTS)
PAIR = ("lora_A", "lora_B")
NORMS = (torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.RMSNorm)
# a layer's own weights, of which a difference is trained: a norm's weight, any bias
WEIGHT, BIAS = "diff", "diff_b"

Layer = Any  # a linear layer, a convolution or a norm, of whatever class: told by what it says of itself
Over = Callable[..., torch.Tensor]  # (x, y, *weights) -> the adapted layer's answer; y: the layer's own


@dataclass(frozen=True)
class Member:
    """One layer of the bank. parts: names of its weights, "<layer>.<part>" in the bank; alpha: as the host reads it from a file,
    so that a LoRA is scaled by alpha / rank whatever its kind."""

    kind: str = LORA
    rank: int = 1
    alpha: float = 1.0
    parts: tuple[str, ...] = PAIR
    __repr__ = brief

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def member_of(layer: torch.nn.Module, kind: str, rank: int, alpha: float) -> Member | None:
    """None where this kind can do nothing in a layer of this size."""
    if kind in HOSTS:
        adapter = _adapter(layer, kind, rank, alpha)
        parts = tuple(name for name, weight in adapter.named_parameters() if weight.requires_grad)
        turns = kind != "OFT" or adapter.block_size > 1
        return Member(kind, rank, alpha, parts) if turns else None
    return Member(kind, rank, alpha * math.sqrt(rank) if kind == RS_LORA else alpha)


def first_weights(layer: torch.nn.Module, member: Member, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Part -> float32 on the CPU, of a kind in HOSTS, as the host's own Train LoRA starts it: nothing changes yet."""
    with torch.random.fork_rng(devices=[]):  # the host draws from PyTorch's own generator
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        adapter = _adapter(layer, member.kind, member.rank, member.alpha, "cpu")
    return {name: weight.detach() for name, weight in adapter.named_parameters() if name in member.parts}


def laid_over(layer: torch.nn.Module, member: Member, base: Callable) -> Over:
    """base: the layer's own forward, without anything over it."""
    kinds = {LORA: _lora, RS_LORA: _lora, "LoHa": _dense, "LoKr": _dense, "OFT": _turned}
    first: list[tuple[int, Over]] = []
    if isinstance(layer, NORMS):
        return _norm(layer, member)
    own = len([part for part in member.parts if part not in (WEIGHT, BIAS)])
    if own:
        first.append((own, kinds[member.kind](layer, member, base)))

    def over(x, y, *weights):
        for count, adapt in first:
            y = adapt(x, y, *weights[:count])
        return y if len(weights) == own else y + _along_channels(layer, weights[own].to(y.dtype))

    return over


def _lora(layer: Layer, member: Member, base: Callable) -> Over:
    scale, cast = member.scale, _Casts()

    def linear(x, y, a, b):
        # in two dimensions: of more torch multiplies otherwise where A wants a gradient, and the first ratio would not be 1
        low, up = F.linear(x.reshape(-1, x.shape[-1]), cast(a, x.dtype)), cast(b, x.dtype).T
        if y.dtype != x.dtype:
            return y + (low @ up * scale).view(y.shape)
        return torch.addmm(y.reshape(-1, y.shape[-1]), low, up, alpha=scale).view(y.shape)

    def convolution(x, y, a, b):
        low = F.conv2d(x, cast(a, x.dtype), None, layer.stride, layer.padding, layer.dilation)
        return y + F.conv2d(low * scale, cast(b, x.dtype))

    return linear if kind_of(layer) == LINEAR else convolution


class _Casts:
    """A layer's weights in the type that it computes in: made once, for as long as they stay the same, but not of weights that
    train: a recomputing pass would hold them all while it goes backward, which is when memory is short."""

    MOST = 8  # the policy's, the reference's and those of anchors, two each

    def __init__(self):
        self._kept: dict[int, tuple[torch.Tensor, int, torch.Tensor]] = {}

    def __call__(self, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if weight.dtype == dtype or weight.requires_grad or torch.compiler.is_compiling():
            return weight.to(dtype)
        kept, version, cast = self._kept.get(id(weight), (None, 0, weight))
        if kept is not weight or version != weight._version or cast.dtype != dtype:
            if len(self._kept) >= self.MOST:
                self._kept.clear()
            cast = weight.to(dtype)
            self._kept[id(weight)] = (weight, weight._version, cast)
        return cast


def _dense(layer: Layer, member: Member, base: Callable) -> Over:
    """What is added to W is made as a whole, for the time of one multiplication, and once more in the backward."""
    adapter, shape = _adapter(layer, member.kind, member.rank, member.alpha), _weight_shape(layer)

    def added(x, *weights):
        zero = torch.zeros(shape, dtype=torch.float32, device=x.device)
        delta = functional_call(adapter, dict(zip(member.parts, weights)), (zero,)).to(x.dtype)
        if kind_of(layer) == LINEAR:
            return F.linear(x.contiguous(), delta)
        return F.conv2d(x, delta, None, layer.stride, layer.padding, layer.dilation)

    return lambda x, y, *weights: y + _MadeAgain.apply(added, x, *weights)


def _turned(layer: Layer, member: Member, base: Callable) -> Over:
    """(R W) x + b = R (y - b) + b, by the host's formula for R W with the outputs as W. The bias is the answer to zero."""
    adapter = _adapter(layer, member.kind, member.rank, member.alpha)

    def turned(x, y, blocks):
        last = y if kind_of(layer) == LINEAR else y.movedim(1, -1)
        bias = _answer_to_zero(layer, base, x).to(torch.float32) if layer.bias is not None else 0.0
        plain = (last.to(torch.float32) - bias).reshape(-1, last.shape[-1])
        out = functional_call(adapter, {member.parts[0]: blocks.to(torch.float32)}, (plain.T,)).T.reshape(last.shape) + bias
        return (out if kind_of(layer) == LINEAR else out.movedim(-1, 1)).to(y.dtype)

    return turned


@torch.no_grad()
def _answer_to_zero(layer: Layer, base: Callable, x: torch.Tensor) -> torch.Tensor:
    if kind_of(layer) == LINEAR:
        return base(x.new_zeros(1, layer.in_features)).flatten()
    sizes = [(size - 1) * step + 1 for size, step in zip(layer.kernel_size, layer.dilation)]
    return base(x.new_zeros(1, layer.in_channels, *sizes))[0, :, 0, 0]


def _norm(layer: Layer, member: Member) -> Over:
    """A norm is linear in its weight and bias, so a difference of them is one norm more, added."""

    def over(x, y, *weights):
        given = {part: weight.to(x.dtype) for part, weight in zip(member.parts, weights)}
        weight, bias = given.get(WEIGHT), given.get(BIAS)
        weight = torch.zeros_like(given[BIAS]) if weight is None else weight
        if isinstance(layer, torch.nn.GroupNorm):
            return y + F.group_norm(x, layer.num_groups, weight, bias, layer.eps)
        if isinstance(layer, torch.nn.LayerNorm):
            return y + F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)
        return y + F.rms_norm(x, layer.normalized_shape, weight, layer.eps)

    return over


def _along_channels(layer: torch.nn.Module, bias: torch.Tensor) -> torch.Tensor:
    return bias if kind_of(layer) == LINEAR else bias.view(1, -1, 1, 1)


def _weight_shape(layer: torch.nn.Module) -> tuple[int, ...]:
    a, b = lora_shapes(layer, 1)
    return (b[0], *a[1:])


def _adapter(layer: torch.nn.Module, kind: str, rank: int, alpha: float, device: str = "meta") -> Any:
    """The host's own trainable adapter for a layer of this size."""
    with torch.inference_mode(False):
        weight = torch.empty(_weight_shape(layer), device=device)
        return comfy.weight_adapter.adapter_maps[kind].create_train(weight, rank, alpha)


class _MadeAgain(torch.autograd.Function):
    """run(x, *weights), which keeps nothing but these for its backward."""

    @staticmethod
    def forward(ctx, run, x, *weights):
        ctx.run = run
        ctx.save_for_backward(x, *weights)
        return run(x, *weights)

    @staticmethod
    def backward(ctx, gradient):
        inputs = [each.detach().requires_grad_(wanted) for each, wanted in zip(ctx.saved_tensors, ctx.needs_input_grad[1:])]
        with torch.enable_grad():
            y = ctx.run(*inputs)
        found = iter(torch.autograd.grad(y, [each for each in inputs if each.requires_grad], gradient))
        return None, *(next(found) if each.requires_grad else None for each in inputs)
