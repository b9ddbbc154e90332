"""Makes frozen weights usable by autograd without copying them, and gives them back as they were.

ComfyUI runs nodes under ``torch.inference_mode``; tensors made there are refused by autograd. A tensor that shares
their storage but was made outside is accepted, costs no memory and stays valid until the weights are moved again.
Only plain tensors are replaced: what a quantised or packed weight is, its own class knows (see ``frozen``).
"""
from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace

import torch

WAS = "posttrain_was"  # on a tensor: (it was an inference tensor, its requires_grad)
_open: weakref.WeakKeyDictionary[torch.nn.Module, int] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def lent(*modules: torch.nn.Module) -> Iterator[None]:
    """Whatever ``freeze_for_autograd`` changes in these modules meanwhile is as it was afterwards; may be nested."""
    for module in modules:
        _open[module] = _open.get(module, 0) + 1
    try:
        yield
    finally:
        for module in modules:
            _open[module] -= 1
            if not _open[module]:
                _give_back(module)


def freeze_for_autograd(module: torch.nn.Module) -> None:
    """Switches ``requires_grad`` off everywhere and replaces plain inference tensors by aliases of the same storage."""
    for table, name, tensor in tensors_of(module):
        if not is_plain(tensor):
            continue
        if tensor.is_inference():
            table[name] = stand_in_for(tensor)
            vars(table[name])[WAS] = (True, tensor.requires_grad)
        elif tensor.requires_grad and tensor.is_leaf:
            tensor.requires_grad_(False)
            vars(tensor)[WAS] = (False, True)


def _give_back(module: torch.nn.Module) -> None:
    """By the mark that an alias carries: one that the host has moved or replaced meanwhile keeps what the host put there."""
    for table, name, tensor in tensors_of(module):
        inference, gradient = vars(tensor).get(WAS, (False, None))
        if inference:
            with torch.inference_mode():
                table[name] = _marked_as(tensor, _of_its_class(tensor, _view(tensor), gradient))
        elif gradient is not None:
            tensor.requires_grad_(gradient)
            del vars(tensor)[WAS]


def tensors_of(module: torch.nn.Module) -> list[tuple[dict, str, torch.Tensor]]:
    """(the table that holds it, its name there, the tensor): parameters and buffers alike, of all parts."""
    tables = [table for part in module.modules() for table in (part._parameters, part._buffers)]
    return [(table, name, tensor) for table in tables for name, tensor in table.items() if tensor is not None]


def stand_in_for(tensor: torch.Tensor) -> torch.Tensor:
    """An alias of its kind, with what the host has noted on it, that asks for no gradient."""
    return _marked_as(tensor, _of_its_class(tensor, alias(tensor), requires_grad=False))


def _of_its_class(original: torch.Tensor, values: torch.Tensor, requires_grad: bool) -> torch.Tensor:
    """Some networks keep a Parameter among their buffers."""
    return torch.nn.Parameter(values, requires_grad) if isinstance(original, torch.nn.Parameter) else values


def _marked_as(original, stand_in):
    """With what the host has noted on the original (the type that it computes in)."""
    vars(stand_in).update({name: value for name, value in vars(original).items() if name != WAS})
    return stand_in


def is_plain(tensor: torch.Tensor) -> bool:
    """An ordinary tensor with numbers in it: no subclass, and not one on the meta device that has yet to be loaded."""
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and not tensor.is_meta


def alias(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers in the same memory, as a tensor that autograd accepts."""
    with torch.inference_mode(False):
        return _view(tensor)


def _view(tensor: torch.Tensor) -> torch.Tensor:
    view = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return view.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


def outside_inference(value):
    """The same value with tensors that autograd accepts; what was made in inference mode is copied.

    Looks into lists, tuples, dicts and dataclasses; call it outside of inference mode.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().clone() if value.is_inference() else value.detach()
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: outside_inference(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, (list, tuple)):
        return type(value)(outside_inference(v) for v in value)
    if isinstance(value, dict):
        return {k: outside_inference(v) for k, v in value.items()}
    return value
