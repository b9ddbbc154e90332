"""Activation checkpointing that is right for networks that change their inputs and activations in place.

``torch.utils.checkpoint`` recomputes from the tensors it was given; networks such as Flux have changed them by then,
and the gradient comes out wrong without an error. Here the inputs are cloned first, and the recomputation runs where
autograd keeps a copy of whatever is overwritten.
"""
from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from ...rewards.base.half import power_of_two
from .kernels import give_gradient, in_words_of_kernels
from .overwritten import copies_kept, watched
from .streams import offload_streams_wait

PLAIN = (type(None), bool, int, float, str, torch.Size, torch.dtype, torch.device)  # they hold no tensor
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


def mended(error: RuntimeError, model: torch.nn.Module) -> bool:
    """Whether something was changed on account of which another pass may succeed where this one failed with error.

    RuntimeError, in words, where the host ran a kernel that has no gradient and gets none.
    """
    if give_gradient(error):
        return True
    if words := in_words_of_kernels(error):
        raise words from error
    if mutates(model) or not is_mutation_error(error):
        return False
    remember_mutation(model)
    return True


@contextlib.contextmanager
def mutation_guard(model: torch.nn.Module):
    """The context in which forward and backward of ``model`` are right: a plain one for most networks.

    Keeping copies costs a Python call per operation, so it is used only for networks that need it; plain autograd
    raises on those, it is never silently wrong. Autograd hands an open guard on to its own threads, where a
    recomputation runs; a second one is not needed there. A network of which neither is known yet is watched.
    """
    global _guards_open
    if _guards_open:
        yield
        return
    if not mutates(model):
        with contextlib.nullcontext() if type(model).__qualname__ in _plain_models else watched():
            yield
        return
    _guards_open += 1
    try:
        with copies_kept():
            yield
    finally:
        _guards_open -= 1


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, model, largest, count, *tensors):
        ctx.run, ctx.model, ctx.largest, ctx.count = run, model, largest, count
        ctx.set_materialize_grads(False)  # an output that nothing reads: zeros for it would become a gradient of idle layers
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
        return (None, None, None, None, *found)


def _recomputed_gradients(ctx, tensors, gradients):
    needed = ctx.needs_input_grad[4:]
    offload_streams_wait(next(g.device for g in gradients if g is not None))
    leaves = [t.detach().requires_grad_(n) for t, n in zip(tensors, needed)]
    with torch.enable_grad(), mutation_guard(ctx.model):
        # a leaf must not be overwritten in place, its copy may be
        outputs = ctx.run([leaf.clone() for leaf in leaves[:ctx.count]], leaves[ctx.count:])
        pairs = [(o, g) for o, g in zip(outputs, gradients) if g is not None and o.requires_grad]
        if not pairs:
            return [None] * len(needed)
        wanted = [leaf for leaf, n in zip(leaves, needed) if n]
        # a network in float16 loses gradients below 6e-8
        scale = power_of_two([g for _, g in pairs], ctx.largest)
        found = torch.autograd.grad([o for o, _ in pairs], wanted, [g * scale for _, g in pairs], allow_unused=True)
    found = iter([None if g is None else g / scale for g in found])
    return [next(found) if n else None for n in needed]


def checkpointed(function, model: torch.nn.Module, weights: list[torch.Tensor], *args, largest: float = 1.0, **kwargs):
    """``function(weights, *args, **kwargs)`` whose activations are recomputed in the backward pass.

    largest: see ``scaled``; args, kwargs, output: tensors and anything that holds them in lists, tuples, dicts and
    dataclasses; gradients reach those that require them, and ``weights``. Costs one extra forward; the memory is the inputs plus
    the activations of a single call. A function that answers something else, which may hide tensors, keeps its activations.
    """
    flat, rebuild = _flattened((args, kwargs))
    places = [i for i, leaf in enumerate(flat) if isinstance(leaf, torch.Tensor)]
    shape_of_output: list = []  # what makes the output of its leaves, and those leaves that are no tensors

    def run(inputs, bank):
        filled = list(flat)
        for place, tensor in zip(places, inputs):
            filled[place] = tensor
        inner_args, inner_kwargs = rebuild(filled)
        output, rebuild_output = _flattened(function(list(bank), *inner_args, **inner_kwargs))
        shape_of_output[:] = [rebuild_output, [None if isinstance(o, torch.Tensor) else (o,) for o in output]]
        return tuple(o for o in output if isinstance(o, torch.Tensor))

    tensors = iter(_Recompute.apply(run, model, largest, len(places), *(flat[i] for i in places), *weights))
    rebuild_output, leaves = shape_of_output
    if any(leaf is not None and not isinstance(leaf[0], PLAIN) for leaf in leaves):
        return function(weights, *args, **kwargs)
    return rebuild_output([next(tensors) if leaf is None else leaf[0] for leaf in leaves])


def _flattened(tree) -> tuple[list, Callable[[list], Any]]:
    """torch's tree_flatten, which looks into dataclasses too: (leaves, what makes the tree of other leaves)."""
    outer, spec = tree_flatten(tree)
    inside = [_flattened({f.name: getattr(leaf, f.name) for f in fields(leaf)})
              if is_dataclass(leaf) and not isinstance(leaf, type) else None for leaf in outer]
    # without the tensors themselves: an output that its own graph holds would never be freed
    shells = [None if part is None else (_with_fields(leaf, {f.name: None for f in fields(leaf)}), len(part[0]), part[1])
              for leaf, part in zip(outer, inside)]

    def rebuild(leaves: list):
        rest = iter(leaves)
        return tree_unflatten([next(rest) if shell is None else
                               _with_fields(shell[0], shell[2]([next(rest) for _ in range(shell[1])])) for shell in shells], spec)

    return [each for leaf, part in zip(outer, inside) for each in ([leaf] if part is None else part[0])], rebuild


def _with_fields(instance, values):
    changed = copy.copy(instance)
    for name, value in values.items():
        object.__setattr__(changed, name, value)
    return changed
