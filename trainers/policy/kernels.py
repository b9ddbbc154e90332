"""A gradient through the host's kernels that have none: by the host's own switch, else by the kernel's plain counterpart."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator

import comfy.model_management as management
import torch

KERNELS = "comfy_kitchen"  # the package, and torch's name space of its operators
_TORCH_SAYS = re.compile(rf"backward through {KERNELS}\.(\w+)\S* but no autograd formula")
_given: set[str] = set()


@contextlib.contextmanager
def kernels_with_gradient() -> Iterator[None]:
    """On hosts that have ``in_training``, it is on in here, in sampling as well as in training.

    With another kernel in one of the two the first ratio would not be 1. Kernels that the host does not switch off, and those
    of hosts without the switch, stay as they are; ``give_gradient`` is for them.
    """
    before = getattr(management, "in_training", None)
    if before is None:
        yield
        return
    management.in_training = True
    try:
        yield
    finally:
        management.in_training = before


def give_gradient(error: RuntimeError) -> bool:
    """Where torch says that a kernel has no formula for its gradient, gives it one. True where another try is worth it.

    The kernel itself is not touched, so sampling, training and KSampler go on with the same numbers. The formula stays for as
    long as ComfyUI runs, in the place of an error.
    """
    found = _TORCH_SAYS.search(str(error))
    if found is None or found[1] in _given or not _has_counterpart(found[1]):
        return False
    name = found[1]
    torch.library.register_autograd(f"{KERNELS}::{name}", _backward_of(name), setup_context=_remember)
    _given.add(name)
    return True


def _registry():
    return getattr(sys.modules.get(f"{KERNELS}.registry"), "registry", None)


def _has_counterpart(name: str) -> bool:
    """Whether the package has the kernel in torch's own operators too, and it changes nothing in place."""
    plain = _registry() and _registry().list_backends().get("eager", {"capabilities": ()})["capabilities"]
    return bool(plain) and name in plain and not _schema(name).is_mutable


def _schema(name: str):
    return getattr(getattr(torch.ops, KERNELS), name).default._schema


def _remember(ctx, inputs, output) -> None:
    ctx.places = [place for place, value in enumerate(inputs) if isinstance(value, torch.Tensor)]
    ctx.others = [None if isinstance(value, torch.Tensor) else value for value in inputs]
    ctx.save_for_backward(*(inputs[place].clone() if _is_lent(inputs[place]) else inputs[place] for place in ctx.places))


def _is_lent(tensor: torch.Tensor) -> bool:
    """Whether it may be a norm's weight in a buffer, into which the host streams the next layer's without autograd's notice."""
    return not tensor.requires_grad and (tensor.ndim == 1 or tensor.is_inference())


def _backward_of(name: str):
    names = [argument.name for argument in _schema(name).arguments]

    def backward(ctx, *gradients):
        leaves = [t.detach().requires_grad_(ctx.needs_input_grad[p]) for t, p in zip(ctx.saved_tensors, ctx.places)]
        values = dict(zip(names, ctx.others))
        values |= {names[place]: leaf for place, leaf in zip(ctx.places, leaves)}
        with torch.enable_grad():
            out = _registry().get_implementation(name, backend="eager")(**values)
        outputs = out if isinstance(out, (tuple, list)) else (out,)
        if not all(map(_is_plain, (*leaves, *outputs))):  # what is rounded to few bits has a gradient of 0
            raise RuntimeError(f"no backward through {KERNELS}.{name}: it rounds to few bits")
        found = dict(zip(ctx.places, _pulled_back(outputs, gradients, leaves)))
        return tuple(found.get(place) for place in range(len(names)))

    return backward


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype.itemsize > 1


def _pulled_back(outputs, gradients, leaves) -> list:
    """The gradient of each leaf, None for those that want none."""
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    pairs = [(out, gradient.to(out.dtype)) for out, gradient in zip(outputs, gradients) if gradient is not None]
    found = iter(torch.autograd.grad([out for out, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True))
    return [next(found) if leaf.requires_grad else None for leaf in leaves]


def in_words_of_kernels(error: RuntimeError) -> RuntimeError | None:
    """What to say in the place of torch's error where the host ran a kernel that has no gradient; None where it is another."""
    if KERNELS not in str(error) or "backward" not in str(error):
        return None
    return RuntimeError(
        "This ComfyUI computes a part of the model with a kernel that has no gradient, so the model cannot be trained on it. "
        "Update ComfyUI: newer ones switch it off for training "
        f"(torch: {str(error).splitlines()[0][:120]})"
    )
