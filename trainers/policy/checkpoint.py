"""Activation checkpointing that is right for networks that change their inputs and activations in place.

``torch.utils.checkpoint`` recomputes from the tensors it was given; networks such as Flux have changed them by then,
and the gradient comes out wrong without an error. Here the inputs are cloned first, and the recomputation runs where
autograd keeps a copy of whatever is overwritten.
"""
from __future__ import annotations

import contextlib
import math

import torch
from torch.autograd.graph import allow_mutation_on_saved_tensors
from torch.utils._pytree import tree_flatten, tree_unflatten

from .streams import offload_streams_wait

_mutating_models: set[str] = set()
_plain_models: set[str] = set()
_guards_open = 0


def mutates(model: torch.nn.Module) -> bool:
    """Whether this kind of network was seen to overwrite activations that its backward needs."""
    return type(model).__qualname__ in _mutating_models


def remember_mutation(model: torch.nn.Module) -> None:
    _mutating_models.add(type(model).__qualname__)


def remember_plain(model: torch.nn.Module) -> None:
    """After a backward pass without complaint."""
    _plain_models.add(type(model).__qualname__)


def is_mutation_error(error: RuntimeError) -> bool:
    return "modified by an inplace operation" in str(error)


@contextlib.contextmanager
def mutation_guard(model: torch.nn.Module):
    """The context in which forward and backward of ``model`` are right: a plain one for most networks.

    Keeping copies costs a Python call per operation, so it is used only for networks that need it; plain autograd
    raises on those, it is never silently wrong. Autograd hands an open guard on to its own threads, where a
    recomputation runs; torch refuses a second one there. A network of which neither is known yet is watched.
    """
    global _guards_open
    if _guards_open:
        yield
        return
    if not mutates(model):
        with contextlib.nullcontext() if type(model).__qualname__ in _plain_models else _watched():
            yield
        return
    _guards_open += 1
    try:
        with allow_mutation_on_saved_tensors():
            yield
    finally:
        _guards_open -= 1


def _watched() -> torch.autograd.graph.saved_tensors_hooks:
    """Autograd as it is, saving a second tensor of the same memory in each one's place.

    What was saved itself and is then overwritten refers to the graph that refers to it, and a pass that never reaches its
    backward (out of memory, a cancel, the error for overwritten tensors) would stay in memory for good.
    """
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: (tensor.detach(), tensor._version), _unchanged)


def _unchanged(saved: tuple[torch.Tensor, int]) -> torch.Tensor:
    tensor, version = saved
    if tensor._version != version:  # autograd does not look where there are hooks
        raise RuntimeError("one of the variables needed for gradient computation has been modified by an inplace operation")
    return tensor


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, model, count, *tensors):
        ctx.run, ctx.model, ctx.count = run, model, count
        ctx.save_for_backward(*(t.clone() for t in tensors[:count]), *tensors[count:])
        with torch.no_grad():
            return run([t.clone() for t in tensors[:count]], tensors[count:])

    @staticmethod
    def backward(ctx, *gradients):
        tensors = ctx.saved_tensors
        try:
            found = _recomputed_gradients(ctx, tensors, gradients)
        except RuntimeError as error:
            if not is_mutation_error(error):
                raise
            remember_mutation(ctx.model)
            found = _recomputed_gradients(ctx, tensors, gradients)
        return (None, None, None, *found)


def _recomputed_gradients(ctx, tensors, gradients):
    needed = ctx.needs_input_grad[3:]
    offload_streams_wait(gradients[0].device if gradients[0] is not None else tensors[0].device)
    leaves = [t.detach().requires_grad_(n) for t, n in zip(tensors, needed)]
    with torch.enable_grad(), mutation_guard(ctx.model):
        # a leaf must not be overwritten in place, its copy may be
        outputs = ctx.run([leaf.clone() for leaf in leaves[:ctx.count]], leaves[ctx.count:])
        pairs = [(o, g) for o, g in zip(outputs, gradients) if g is not None and o.requires_grad]
        wanted = [leaf for leaf, n in zip(leaves, needed) if n]
        scale = _power_of_two([g for _, g in pairs])
        found = torch.autograd.grad([o for o, _ in pairs], wanted, [g * scale for _, g in pairs], allow_unused=True)
    found = iter([None if g is None else g / scale for g in found])
    return [next(found) if n else None for n in needed]


def _power_of_two(gradients: list[torch.Tensor]) -> float:
    """What brings the largest of them near 1: a network in float16 loses gradients below 6e-8. Exact in itself."""
    largest = max((float(g.abs().max()) for g in gradients if g.numel()), default=0.0)
    return 2.0 ** -math.ceil(math.log2(largest)) if 1e-30 < largest < math.inf else 1.0


def checkpointed(function, model: torch.nn.Module, weights: list[torch.Tensor], *args, **kwargs):
    """``function(weights, *args, **kwargs)`` whose activations are recomputed in the backward pass.

    args, kwargs: tensors and anything that holds them in lists, tuples and dicts; gradients reach those that require
    them, and ``weights``. Costs one extra forward; the memory is the inputs plus the activations of a single call.
    """
    flat, spec = tree_flatten((args, kwargs))
    places = [i for i, leaf in enumerate(flat) if isinstance(leaf, torch.Tensor)]
    shape_of_output = []

    def run(inputs, bank):
        filled = list(flat)
        for place, tensor in zip(places, inputs):
            filled[place] = tensor
        inner_args, inner_kwargs = tree_unflatten(filled, spec)
        output, output_spec = tree_flatten(function(list(bank), *inner_args, **inner_kwargs))
        shape_of_output[:] = [output_spec, [None if isinstance(o, torch.Tensor) else (o,) for o in output]]
        return tuple(o for o in output if isinstance(o, torch.Tensor))

    tensors = iter(_Recompute.apply(run, model, len(places), *(flat[i] for i in places), *weights))
    output_spec, leaves = shape_of_output
    return tree_unflatten([next(tensors) if leaf is None else leaf[0] for leaf in leaves], output_spec)
