"""A gradient for attention that has none (SageAttention, flash by a bare kernel) or keeps too much (sub-quadratic, split).

Forward is the user's attention as it is, so the rollout, the train step and KSampler see the same numbers. Backward makes
PyTorch's attention of the same inputs once more and takes its gradient; queries, keys and values are all that is kept.

On a CPU the host's choice is made for want of a better one, and in float32 PyTorch's takes a third to two thirds of its time.
There it stands for the host's in rollouts and train steps alike, wherever there are enough positions for it to matter; the
answers differ in their last digits (1e-6), as they do between any two of the host's attentions.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

import comfy.ldm.modules.attention as host
import comfy.ldm.modules.diffusionmodules.model as host_vae
import comfy.model_management as management
import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from .checkpoint import is_mutation_error

OVERRIDE = "optimized_attention_override"
# of its length; SageAttention is off by .02 to .15, what is no such attention by more
FARTHEST = 0.3
LEAST = 128  # positions: of fewer an attention costs nothing, and stays KSampler's to the last bit
SLOWER = ("attention_sub_quad", "attention_split", "attention_basic")
_said: set[str] = set()


def _own(*names: str) -> tuple[Callable, ...]:
    """The host's functions of these names as an override is given them, without the host's wrapper."""
    functions = (getattr(host, name, None) for name in names)
    return tuple(getattr(function, "__wrapped__", function) for function in functions if function is not None)


class GradientAttention:
    """Stands as the host's ``optimized_attention_override`` while a policy is open."""

    def __init__(self, users: Callable | None):
        """users: the override that a node has put on the MODEL, which goes on doing what it did."""
        self._users = users
        self._as_they_are = _own("attention_pytorch", "attention_xformers")
        self._slower = _own(*SLOWER)
        self._passes_on: dict[tuple, bool] = {}  # by function and shapes: whether it has a gradient of its own
        self._compared: set[tuple] = set()

    def __call__(self, function: Callable, *args, **kwargs) -> torch.Tensor:
        """function: the host's choice, as the host hands it to an override; args, kwargs: q, k, v, heads and so on."""
        users = self._users
        if users is None:
            return self._attend(function, args, kwargs)

        def inner(*args, **kwargs):
            return self._attend(function, args, kwargs)

        return self._with_gradient(lambda *args, **kwargs: users(inner, *args, **kwargs), users, args, kwargs)

    def _attend(self, function: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        if function in self._slower and _fused(args, kwargs):
            _say(function)
            return _exact(*args, **kwargs).to(_tensors(args, kwargs)[0].dtype)
        if not _wants_gradient(args, kwargs) or function in self._as_they_are:
            return function(*args, **kwargs)
        if getattr(function, "__module__", "") == host.__name__:  # all the host's own mean the same
            self._passes_on[_key(function, args, kwargs)] = False
        return self._with_gradient(function, function, args, kwargs)

    def _with_gradient(self, run: Callable, function: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
        if not _wants_gradient(args, kwargs):
            return run(*args, **kwargs)
        key = _key(function, args, kwargs)
        if self._passes_on.get(key, True):
            out = run(*args, **kwargs)
            if key not in self._passes_on:
                self._passes_on[key] = _has_gradient(out, args, kwargs)
            if self._passes_on[key]:
                return out
        # what the host calls attention need not be what a node has put in its place
        compare = None if key in self._compared else lambda: self._compared.add(key)
        return recomputed(run, _exact, args, kwargs, compare)


def _fused(args: tuple, kwargs: dict) -> bool:
    """Whether PyTorch has a kernel for these queries, keys and values that never holds all of their products."""
    tensors = _tensors(args, kwargs)
    q, k, v = tensors[:3]
    plain = all(type(tensor) is torch.Tensor for tensor in tensors)
    masked = any(tensor.requires_grad for tensor in tensors[3:])
    measured = q.device.type == "cpu" and q.dtype == torch.float32  # in bfloat16 a CPU gains nothing
    alike = k.numel() == v.numel()  # SD3 keeps the heads of v apart, and those of k not
    return plain and measured and q.shape[-2] >= LEAST and alike and not masked


def _say(function: Callable) -> None:
    if function.__name__ not in _said:
        _said.add(function.__name__)
        logging.info(
            "PostTrain: PyTorch's attention stands for the host's (%s) while sampling and training a policy: it is "
            "quicker on a CPU. Start ComfyUI with --use-pytorch-cross-attention to sample with it as well.",
            function.__name__,
        )


def _tensors(args: tuple, kwargs: dict) -> list[torch.Tensor]:
    return [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]


def _wants_gradient(args: tuple, kwargs: dict) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in _tensors(args, kwargs))


def _key(function: Callable, args: tuple, kwargs: dict) -> tuple:
    return (id(function), *(tensor.shape for tensor in _tensors(args, kwargs)))


def _has_gradient(out: torch.Tensor, args: tuple, kwargs: dict) -> bool:
    """Whether autograd finds its way from an attention's output to everything that wants a gradient."""
    wanted = [tensor for tensor in _tensors(args, kwargs) if tensor.requires_grad]
    if not out.requires_grad:
        return False
    try:
        found = torch.autograd.grad(out, wanted, torch.ones_like(out), retain_graph=True, allow_unused=True)
    except management.OOM_EXCEPTION:
        raise
    except (RuntimeError, NotImplementedError) as error:  # an operator without a formula
        if is_mutation_error(error):  # the step is run again, with copies kept
            raise
        return False
    return all(gradient is not None for gradient in found)


def _exact(q, k, v, heads, mask=None, attn_precision=None, **kwargs) -> torch.Tensor:
    """PyTorch's attention by the host's own function for it, in the precision that the model asks for."""
    if host.get_attn_precision(attn_precision, q.dtype) == torch.float32:
        q, k, v = q.float(), k.float(), v.float()
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)
    return host.attention_pytorch(q, k, v, heads, mask, **{**kwargs, "_inside_attn_wrapper": True})


def recomputed(run: Callable, exact: Callable, args: tuple, kwargs: dict, compare: Callable[[], None] | None = None):
    """run(*args, **kwargs), one tensor, whose backward is that of exact(*args, **kwargs).

    compare is called once both were found to be near each other; RuntimeError, in words, where they are not.
    """
    flat, spec = tree_flatten((args, kwargs))
    places = [i for i, value in enumerate(flat) if isinstance(value, torch.Tensor)]

    def filled(function: Callable):
        def of(tensors):
            values = list(flat)
            for place, tensor in zip(places, tensors):
                values[place] = tensor
            inner_args, inner_kwargs = tree_unflatten(values, spec)
            return function(*inner_args, **inner_kwargs)

        return of

    return _Recomputed.apply(filled(run), filled(exact), compare, *(flat[place] for place in places))


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, run, exact, compare, *tensors):
        out = run(tensors).detach()  # a view made without gradient may not be changed in place
        ctx.exact, ctx.compare = exact, compare
        ctx.save_for_backward(*tensors, *([] if compare is None else [out]))
        return out

    @staticmethod
    def backward(ctx, gradient):
        needed = ctx.needs_input_grad[3:]
        tensors = ctx.saved_tensors
        leaves = [t.detach().requires_grad_(n) for t, n in zip(tensors, needed)]
        with torch.enable_grad():
            out = ctx.exact(leaves)
        if ctx.compare is not None:
            _check_near(tensors[-1], out.detach())
            ctx.compare()
        found = iter(torch.autograd.grad(out, [leaf for leaf, n in zip(leaves, needed) if n], gradient.to(out.dtype)))
        return (None, None, None, *(next(found) if n else None for n in needed))


def _check_near(found: torch.Tensor, exact: torch.Tensor) -> None:
    far = float((found.float() - exact.float()).norm() / exact.float().norm().clamp_min(1e-12))
    if far > FARTHEST:  # not a number is none of this function's business
        raise RuntimeError(
            f"model: a node has put something in the place of the model's attention that has no gradient and is no mere "
            f"faster attention (its answer is {far:.0%} off PyTorch's), so it cannot be trained through; connect the model "
            "from before that node"
        )


@contextlib.contextmanager
def vae_attention(model: torch.nn.Module) -> Iterator[None]:
    """Gives the attention of a VAE's blocks such a gradient while it is open."""
    torchs = (host_vae.pytorch_attention, host_vae.xformers_attention)
    blocks = [m for m in model.modules() if callable(m.__dict__.get("optimized_attention"))]
    replaced = {block: vars(block)["optimized_attention"] for block in blocks if block.optimized_attention not in torchs}
    for block, own in replaced.items():
        vars(block)["optimized_attention"] = _vae_attention(own)
    try:
        yield
    finally:
        for block, own in replaced.items():
            vars(block)["optimized_attention"] = own


def _vae_attention(own: Callable) -> Callable:
    def attend(*args, **kwargs):
        if not _wants_gradient(args, kwargs):
            return own(*args, **kwargs)
        return recomputed(own, host_vae.pytorch_attention, args, kwargs)

    return attend
