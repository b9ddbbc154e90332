"""A pretend GPU on a machine without one: call ``start()`` before anything asks torch.cuda, so before ComfyUI.

Its tensors keep their bytes in ordinary memory, refuse to be mixed with CPU tensors as a GPU's do, are counted in bytes,
and raise torch.cuda.OutOfMemoryError above ``limit``. backward() runs in autograd's device thread, as on a GPU.

Real are: storages, views, set_, autograd, device checks, inference mode, the order of streams, what the host's memory
manager does. Not simulated: speed, values that a race would spoil, kernels' own rounding, types that a kernel lacks,
fragmentation, kernels' workspaces, a second card, compilation.
"""
from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from . import build

_native = None
total = 8 << 30  # bytes of the card, as reported


def start(mac: bool = False) -> None:
    """Lets torch.cuda (or torch.mps) answer for the device. Nothing is refused above its size unless ``limit`` says so."""
    global _native
    if _native is not None:
        return
    # at the process's end autograd asks its device thread to end, which a Python that is going down turns into an abort
    os.environ["TORCH_AUTOGRAD_SHUTDOWN_WAIT_LIMIT"] = "0"
    _native = build.native(mac)
    _native.allow_numbers_in(_ops_that_mix())
    from . import answers
    (answers.for_mac if mac else answers.for_cuda)(_native)


def counts() -> dict[str, int]:
    """now, peak, limit: bytes; pieces: allocations so far; refused: out-of-memory errors; to_host, to_device: copies; syncs:
    numbers read by the host (item(), float(), bool()), each of which stops a GPU's queue."""
    return dict(_native.counts())


def pieces() -> list[tuple[int, int]]:
    """(bytes, a number that equal contents share) of every piece of memory in use: what is held twice appears twice."""
    return [tuple(piece) for piece in _native.pieces_held()]


def races() -> tuple[int, list[str]]:
    """How often a stream got memory again that another stream may still have been using, since ``reset``; and the first of
    them in words. CUDA's caching allocator hands memory out in the same way: on a GPU each may spoil a number, silently."""
    return _native.races()


def hold(size: int) -> None:
    """Counts so many bytes (a multiple of 512) as in use, which are no tensor's own; below 0: gives them back."""
    _native.hold(size)


def reset() -> None:
    """The peak starts again from what is in use now; copies, syncs and races from 0."""
    _native.reset()


@contextlib.contextmanager
def limit(bytes_in_use: int):
    """Inside, an allocation that would bring the bytes in use above this raises torch.cuda.OutOfMemoryError, and the card
    reports this as its size."""
    with reported(bytes_in_use), tight(bytes_in_use):
        yield


@contextlib.contextmanager
def tight(bytes_in_use: int):
    """The same without a word about it: the card reports its usual size, as where memory is lost to fragments."""
    _native.set_limit(bytes_in_use)
    try:
        yield
    finally:
        _native.set_limit(0)


@contextlib.contextmanager
def reported(size: int):
    """Inside, the card says that it has this many bytes; nothing is refused."""
    global total
    before, total = total, size
    try:
        yield
    finally:
        total = before


@contextlib.contextmanager
def failing(allocation: int):
    """Inside, this allocation (counted from 1) fails, and only this one: an out-of-memory error at a chosen place."""
    _native.fail_at(allocation)
    try:
        yield
    finally:
        _native.fail_at(0)


def _ops_that_mix() -> list[str]:
    """The operators whose kernels accept a CPU number (0-dimensional) beside the device's tensors."""
    import torchgen
    text = (Path(torchgen.__file__).parent / "packaged/ATen/native/native_functions.yaml").read_text(encoding="utf-8")
    entries = re.split(r"^- func: ", text, flags=re.MULTILINE)[1:]
    return sorted({"aten::" + re.match(r"\w+", entry).group() for entry in entries if "device_check: NoCheck" in entry})
