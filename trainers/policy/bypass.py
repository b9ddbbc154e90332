"""Attention without a backward that a network calls past the host's override: named in words, in the first backward pass.

``GradientAttention`` gives such an attention a gradient where the host asks an override, which it does where the network hands
on its options. A few networks do not, and a flag (--use-sage-attention) is theirs all the same. Nothing is in between there.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import comfy.ldm.modules.attention as host
import torch
from torch.utils._pytree import tree_leaves

WITH_GRADIENT = ("attention_pytorch", "attention_xformers", "attention_sub_quad", "attention_split", "attention_basic")


@contextlib.contextmanager
def cuts_named(network: torch.nn.Module) -> Iterator[None]:
    """RuntimeError in here, in words, from an attention module of the network that lets no gradient through.

    Costs nothing where the host's choice of attention has a gradient.
    """
    hooks = [module.register_forward_hook(_Check(), with_kwargs=True) for module in _attentions(network)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _attentions(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The innermost modules whose file has imported the host's choice of attention, where that has no gradient."""
    chosen = (host.optimized_attention, host.optimized_attention_masked)
    if all(function in [getattr(host, name, None) for name in WITH_GRADIENT] for function in chosen):
        return []

    def uses_it(module: torch.nn.Module) -> bool:
        names = vars(sys.modules.get(type(module).__module__, host))
        return any(value is function for value in names.values() for function in chosen)

    found = {module for module in network.modules() if uses_it(module)}
    return [module for module in found if not any(inner in found for inner in module.modules() if inner is not module)]


class _Check:
    """A forward hook that looks once."""

    def __init__(self):
        self.done = False

    def __call__(self, module, args, kwargs, output) -> None:
        if self.done or not torch.is_grad_enabled():
            return
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x.requires_grad]
        outputs = [x for x in tree_leaves(output) if isinstance(x, torch.Tensor) and x.is_floating_point()]
        if not inputs or not outputs:
            return
        self.done = True
        if not _passes(outputs, inputs) and _depends(module, args, kwargs, outputs):
            raise RuntimeError(
                f"model: {type(module).__name__} computes its attention by {host.optimized_attention.__name__}, which has no "
                "gradient, and hands on no options by which it could be given one, so this model cannot be trained with it; "
                "start ComfyUI without --use-sage-attention, --use-flash-attention or the like"
            )


def _passes(outputs: list[torch.Tensor], inputs: list[torch.Tensor]) -> bool:
    reached = [out for out in outputs if out.requires_grad]
    if not reached:
        return False
    ones = [torch.ones_like(out) for out in reached]
    return any(g is not None for g in torch.autograd.grad(reached, inputs, ones, retain_graph=True, allow_unused=True))


@torch.no_grad()
def _depends(module, args: tuple, kwargs: dict, outputs: list[torch.Tensor]) -> bool:
    """Whether the answer is another one for other inputs; that of a module for positions is not."""

    def moved(value):
        return value * 1.5 if isinstance(value, torch.Tensor) and value.requires_grad else value

    again = module.forward(*map(moved, args), **{key: moved(value) for key, value in kwargs.items()})
    found = [x for x in tree_leaves(again) if isinstance(x, torch.Tensor) and x.is_floating_point()]
    return any(not torch.equal(a, b) for a, b in zip(found, outputs))
