"""Counts the calls of layers, and lets one of them fail."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def watched(networks: Iterable[torch.nn.Module], error: BaseException | None = None, at: int = 0) -> Iterator[list[int]]:
    """The calls so far of all layers of these networks that have a weight; the at-th of them raises the error."""
    calls: list[int] = []

    def count(*_):
        calls.append(len(calls) + 1)
        if calls[-1] == at:
            raise error

    layers = [m for network in networks for m in network.modules() if m._parameters.get("weight") is not None]
    hooks = [layer.register_forward_pre_hook(count) for layer in layers]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
