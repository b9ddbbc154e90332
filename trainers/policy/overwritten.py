"""Autograd on networks that overwrite what it has saved: a copy is made of whatever is about to be overwritten.

As PyTorch's ``allow_mutation_on_saved_tensors``, which knows a tensor by where it begins, and so does not see that a part of
it which begins elsewhere is written to: the gradient comes out wrong without an error.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator

import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from ...rewards.base.untouched import version

OVERWRITTEN = "one of the variables needed for gradient computation has been modified by an inplace operation"


# storages, by their address in PyTorch, whose owner fills them anew whenever they are looked at: of them no copy is kept
refilled: set[int] = set()


class Saved:
    """What autograd holds in a tensor's place: a second tensor of the same memory, or a copy of what was there."""

    def __init__(self, tensor: torch.Tensor):
        # what was saved itself and is then overwritten refers to the graph that refers to it, and would never be freed
        self._tensor, self._version = tensor.detach(), version(tensor)

    def tensor(self) -> torch.Tensor:
        """RuntimeError where it was overwritten and no copy made: autograd itself does not look where there are hooks."""
        if version(self._tensor) != self._version:
            raise RuntimeError(OVERWRITTEN)
        return self._tensor

    def copy(self) -> None:
        if version(self._tensor) == self._version:
            self._tensor = self._tensor.clone()
            self._version = version(self._tensor)


class _BeforeWriting(TorchDispatchMode):
    """Sees every operation before it runs; what autograd has saved of the memory that it will write to is copied."""

    def __init__(self) -> None:
        super().__init__()
        self._in_memory: dict[int, weakref.WeakValueDictionary[tuple, Saved]] = {}  # by storage, and place in it

    def save(self, tensor: torch.Tensor) -> Saved:
        """The same for the same numbers in the same place, of which one copy is enough."""
        if not _has_memory(tensor) or tensor.untyped_storage()._cdata in refilled:
            return Saved(tensor)
        there = self._in_memory.setdefault(tensor.untyped_storage().data_ptr(), weakref.WeakValueDictionary())
        place = (tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, version(tensor))
        if (saved := there.get(place)) is None:
            saved = there[place] = Saved(tensor)
        return saved

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for tensor in _written(func, args, kwargs):
            for saved in self._in_memory.pop(tensor.untyped_storage().data_ptr(), {}).values():
                saved.copy()
        return func(*args, **kwargs)


def _has_memory(tensor: torch.Tensor) -> bool:
    """Not one of a class of its own, whose numbers may lie elsewhere."""
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout == torch.strided


def _written(func, args: tuple, kwargs: dict) -> Iterator[torch.Tensor]:
    """The tensors that the operation says it writes to."""
    for number, argument in enumerate(func._schema.arguments if hasattr(func, "_schema") else ()):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[number] if number < len(args) else kwargs.get(argument.name)
            each = value if isinstance(value, (list, tuple)) else [value]
            yield from (tensor for tensor in each if isinstance(tensor, torch.Tensor) and _has_memory(tensor))


@contextlib.contextmanager
def copies_kept() -> Iterator[None]:
    """Forward and backward inside are right, whatever is overwritten. Costs a call into Python for each operation."""
    mode = _BeforeWriting()
    with saved_tensors_hooks(mode.save, Saved.tensor), mode:
        yield


def watched() -> saved_tensors_hooks:
    """Autograd as it is, which says so where something that it saved was overwritten."""
    return saved_tensors_hooks(Saved, Saved.tensor)
