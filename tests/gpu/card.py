"""What these tests ask of a card, real or simulated: bytes in use, a limit on them, and how often the host waited."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator

import torch
from simulated_card import device
from torch.utils._python_dispatch import TorchDispatchMode

PIECE = 2 << 20  # the real allocator takes memory from the driver in pieces of this size, and more for large ones


def simulated() -> bool:
    return torch.cuda.get_device_name() == "Simulated GPU"


def settled() -> int:
    """Bytes in use once all models are unloaded."""
    import comfy.model_management as management

    management.unload_all_models()
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()


def peak(work: Callable[[], object]) -> int:
    """The most that ``work`` adds to what is in use."""
    held = settled()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - held


@contextlib.contextmanager
def tight(more: int) -> Iterator[None]:
    """Inside, so many bytes more than are in use now are to be had."""
    held = settled()
    if simulated():
        with device.tight(held + more):
            yield
        return
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + more) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


class Uploads(TorchDispatchMode):
    """Counts copies from RAM to the card that the host waits for: each stops the queue as a number that is read does."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[1] if func.overloadpacket is torch.ops.aten.copy_ else args[0]
            waits = not (kwargs or {}).get("non_blocking", len(args) > 2 and args[2])
            self.count += waits and source.device.type == "cpu" and found.device.type == "cuda"
        return found


@contextlib.contextmanager
def waits() -> Iterator[Callable[[], tuple[int, int]]]:
    """How often the host has waited for the card since: for what it reads there, and for what it uploads."""
    with Uploads() as uploads:
        if simulated():
            before = _reads()
            yield lambda: (_reads() - before, uploads.count)
            return
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield lambda: (_synchronizing(seen) - uploads.count, uploads.count)
            finally:
                torch.cuda.set_sync_debug_mode("default")


def _reads() -> int:
    """Of the simulated card."""
    return device.counts()["syncs"] + device.counts()["to_host"]


def _synchronizing(seen: list[warnings.WarningMessage]) -> int:
    return sum("synchronizing CUDA operation" in str(each.message) for each in seen)
