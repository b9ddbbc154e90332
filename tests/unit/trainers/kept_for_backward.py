"""What autograd keeps for the backward pass, counted while it runs."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch


class Kept:
    """Bytes of distinct tensors that autograd keeps for the backward pass, weights left out: the most at any time."""

    def __init__(self, weights):
        self._weights = {w.untyped_storage().data_ptr() for w in weights}
        self._holders: dict[int, int] = {}
        self.now = self.most = 0

    def __enter__(self):
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda holder: holder.tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error):
        self._hooks.__exit__(*error)

    def _pack(self, tensor):
        @dataclass(eq=False)
        class Holder:
            tensor: torch.Tensor

        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        holder = Holder(tensor)
        if key not in self._weights:
            self._holders[key] = self._holders.get(key, 0) + 1
            if self._holders[key] == 1:
                self.now += size
                self.most = max(self.most, self.now)
            weakref.finalize(holder, self._release, key, size)
        return holder

    def _release(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            del self._holders[key]
            self.now -= size
