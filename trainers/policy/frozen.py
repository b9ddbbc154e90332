"""Gradient through frozen layers whose weights are not simply there: quantised, packed, cast or streamed in by the host.

Such a layer runs as the host runs it, without autograd, so training computes what sampling computed. Its backward lets the
host make the weight once more and keeps nothing in between: no dequantised copy, no buffer that the host will overwrite.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import comfy.ops
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_map

from .layers import LINEAR, kind_of
from .overwritten import watched
from .weights import alias, is_plain

WITH_WEIGHTS = {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "layer_norm", "group_norm",
                "rms_norm"}


def is_simply_there(layer: torch.nn.Module, x: torch.Tensor) -> bool:
    """Whether autograd may see the layer's weights as they are: plain, in x's type, where x is, and theirs for good."""
    if hasattr(layer, "_v") or getattr(layer, "weight_function", ()) or getattr(layer, "bias_function", ()):
        return False
    affine = kind_of(layer) is not None
    return all(is_plain(p) and p.device == x.device and (p.dtype == x.dtype or not affine) and p.dtype.itemsize > 1
               for p in layer._parameters.values() if p is not None)


def casts(module: torch.nn.Module) -> bool:
    """Whether the host may keep this module's weights elsewhere or otherwise than it computes with them."""
    own = [p for p in module._parameters.values() if p is not None]
    return bool(own) and (hasattr(module, "comfy_cast_weights") or not all(is_plain(p) for p in own))


def through_frozen(layer: torch.nn.Module, base: Callable) -> Callable:
    """``base``, the layer's forward, with a gradient that keeps no weight; where the weights are simply there, as it is."""
    # an affine map's gradient does not depend on where it is taken
    affine = kind_of(layer) is not None
    base = _settled(layer, _as_sampled(layer, base))

    def forward(x, *args, **kwargs):
        plain = type(x) is torch.Tensor and x.requires_grad and torch.is_grad_enabled()
        if not plain or is_simply_there(layer, x):
            return base(x, *args, **kwargs)
        return _Frozen.apply(x, layer, lambda x: base(x, *args, **kwargs), affine)

    return forward


def _as_sampled(layer: torch.nn.Module, base: Callable) -> Callable:
    """``base`` where nothing watches what PyTorch does with weights that are no plain tensors; where they are wrapped ones and
    no gradient is wanted, in inference mode: PyTorch takes a linear layer apart outside of it, and then the host's kernels
    round otherwise than in KSampler."""

    def forward(x, *args, **kwargs):
        wrapped = any(hasattr(p, "__tensor_flatten__") for p in layer._parameters.values())
        if not wrapped or x.requires_grad and torch.is_grad_enabled():
            with _unseen(layer):
                return base(x, *args, **kwargs)
        # nothing is saved for a backward here, and what keeps copies of overwritten tensors knows no inference tensors
        with torch.inference_mode(), _disable_current_modes():
            out = base(x, *args, **kwargs)
        return alias(out) if type(out) is torch.Tensor else out

    return forward


@contextlib.contextmanager
def _unseen(layer: torch.nn.Module) -> Iterator[None]:
    """Without what keeps copies of overwritten tensors, where a weight is of a class of its own.

    Under it ``torch.Tensor(weight)`` answers that class again, and the GGUF pack's own code fails. What autograd saves
    meanwhile is watched: overwritten, it is an error.
    """
    if all(type(p) in (torch.Tensor, torch.nn.Parameter) for p in layer._parameters.values() if p is not None):
        yield
        return
    with _disable_current_modes(), watched():
        yield


def _settled(layer: torch.nn.Module, base: Callable) -> Callable:
    """``base`` on the weight as it will stay. With dynamic VRAM the host lays a user's LoRA over a weight as it brings it in,
    and rounds it to the weight's own type only for the next call: the first ratio would not be 1."""
    asked = False

    def forward(x, *args, **kwargs):
        nonlocal asked
        # one that found no room the last time has never been rounded
        if _is_rounded(layer, x) and not (asked and layer._v_signature is None):
            comfy.ops.uncast_bias_weight(layer, *comfy.ops.cast_bias_weight(layer, x, offloadable=True))
            asked = True
        return base(x, *args, **kwargs)

    return forward


def _is_rounded(layer: torch.nn.Module, x: torch.Tensor) -> bool:
    """Whether the host streams a weight in another type than it computes in, with a LoRA over it."""
    lora = any(getattr(layer, f"{name}_lowvram_function", None) is not None for name in ("weight", "bias"))
    return lora and hasattr(layer, "_v") and any(
        not is_plain(p) or getattr(p, "_model_dtype", p.dtype) != x.dtype for p in layer._parameters.values() if p is not None)


@contextlib.contextmanager
def frozen_layers(model: torch.nn.Module) -> Iterator[None]:
    """Gives every casting layer of ``model`` such a gradient while it is open."""
    replaced = [(m, m.__dict__.get("forward")) for m in model.modules() if casts(m)]
    for module, _ in replaced:
        module.forward = through_frozen(module, module.forward)
    try:
        yield
    finally:
        for module, original in replaced:
            restore_forward(module, original)


def restore_forward(module: torch.nn.Module, original) -> None:
    """original: the instance's own forward from before, None where it had only its class's."""
    if original is None:
        module.__dict__.pop("forward", None)
    else:
        module.forward = original


class _Frozen(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layer, base, affine):
        ctx.layer, ctx.base, ctx.like = layer, base, (x.shape, x.dtype, x.device)
        if not affine:
            ctx.save_for_backward(x)
        # a copy: the host's kernels for quantised types clamp their input in place
        return no_view(base(_copied(x) if affine and _low_precision(layer) else x), x)

    @staticmethod
    def backward(ctx, gradient):
        shape, dtype, device = ctx.like
        x = ctx.saved_tensors[0].detach() if ctx.saved_tensors else torch.ones(shape, dtype=dtype, device=device)
        x.requires_grad_(True)
        with torch.inference_mode(False), torch.enable_grad(), _stand_ins(ctx.layer), _Differentiable(ctx.layer, x):
            y = ctx.base(x)
        if not y.requires_grad:  # the host has quantised the input on its way
            raise RuntimeError(f"A layer of the kind {type(ctx.layer).__qualname__} passes no gradient on in this host. Load "
                               "the model without fast quantised arithmetic (no --fast), or in another precision")
        return torch.autograd.grad(y, x, gradient)[0], None, None, None


def no_view(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The same answer as no view of anything: autograd lets a network change what a function of ours hands out, but no view."""
    if not y._is_view():
        return y
    own = is_plain(y) and y.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    return alias(y) if own else y.clone()


def _copied(x: torch.Tensor) -> torch.Tensor:
    """A copy laid out as x is: a kernel that sees another layout may answer otherwise in the last digits, and then the first
    ratio is not 1."""
    if x.numel() and any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride())):
        return x.clone()
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x)


def _low_precision(layer: torch.nn.Module) -> bool:
    return any(p is not None and (not is_plain(p) or p.dtype.itemsize == 1) for p in layer._parameters.values())


@contextlib.contextmanager
def _stand_ins(layer: torch.nn.Module) -> Iterator[None]:
    """Wrapped weights made in inference mode, as wrappers of the same data that autograd accepts; the layer's own come back.

    Only for hosts whose own function for training saves the wrapper.
    """
    own = dict(layer._parameters) if hasattr(comfy.ops, "QuantLinearFunc") else {}
    for name, parameter in own.items():
        if parameter is not None and hasattr(parameter, "__tensor_flatten__") and parameter.is_inference():
            layer._parameters[name] = torch.nn.Parameter(_rewrapped(parameter), requires_grad=False)
    try:
        yield
    finally:
        layer._parameters.update(own)


def _rewrapped(tensor: torch.Tensor) -> torch.Tensor:
    names, context = tensor.__tensor_flatten__()
    parts = {name: getattr(tensor, name) for name in names}
    return type(tensor).__tensor_unflatten__(parts, context, tensor.size(), tensor.stride())


class _Differentiable(TorchFunctionMode):
    """While the host's own code runs: autograd accepts what it computes with, and a linear layer computes only its gradient."""

    def __init__(self, layer: torch.nn.Module, x: torch.Tensor):
        """x: what comes into the layer."""
        super().__init__()
        self._x = x if kind_of(layer) == LINEAR else None
        # a host with dynamic VRAM takes a weight's memory back as soon as the layer has answered
        self._lent = hasattr(layer, "_v")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.is_grad_enabled():
            args, kwargs = tree_map(_accepted, (args, kwargs))
            if self._lent and getattr(func, "__name__", "") in WITH_WEIGHTS:
                args, kwargs = tree_map(_own, (args, kwargs))
            if func is F.linear:
                return self._linear(*args, **kwargs)
            if func is torch.clamp and self._x is not None:
                kwargs = {name: value for name, value in kwargs.items() if name != "out"}  # autograd refuses to write into x
        return func(*args, **kwargs)

    def _linear(self, input, weight, bias=None):
        if self._x is not None and not input.requires_grad:  # rounded on its way (fp8 arithmetic), as if it were not
            input = self._x.reshape(input.shape)
        return _OnlyBackward.apply(input, plain_weight(weight).to(input.dtype))


def _own(value):
    """A copy of what needs no gradient: the weight and the bias."""
    plain = type(value) in (torch.Tensor, torch.nn.Parameter)
    return value.clone() if plain and not value.requires_grad else value


def _accepted(value):
    inference = type(value) in (torch.Tensor, torch.nn.Parameter) and value.is_inference()
    return alias(value) if inference else value


def plain_weight(weight: torch.Tensor) -> torch.Tensor:
    """The numbers that a weight stands for, as an ordinary tensor that autograd accepts."""
    if hasattr(weight, "__tensor_flatten__"):
        weight = weight.dequantize()
    elif not is_plain(weight):
        weight = weight.as_subclass(torch.Tensor)
    return alias(weight) if weight.is_inference() else weight


class _OnlyBackward(torch.autograd.Function):
    """y = x W^T, of which nobody will look at y."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        return x.new_empty((*x.shape[:-1], weight.shape[0]))

    @staticmethod
    def backward(ctx, gradient):
        return gradient @ ctx.weight, None
