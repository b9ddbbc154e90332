"""The native library under comfy-aimdo, for the simulated card: this module stands where its Python half expects the library.

A model's weights have addresses for good (a VBAR), in pages that lie on the card or do not. Where there is no room for a page
the host copies the weight into a buffer that the next layer's overwrites. Memory that was taken back is filled with NaN, and
buffers are overwritten at once, so whoever still reads there computes NaN or another layer's weight.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
from collections import Counter

import torch

from . import device

PAGE = 1 << 15  # 32 MiB on a real card; here models are small
DONE, NO_ROOM = 0, 1
opened: Counter[str] = Counter()  # path of a checkpoint -> how often the host has opened it
missed = 0  # weights so far that did not fit on the card and went through a buffer
short = False  # whether a weight is taken back as soon as its layer has done with it

_objects: dict[int, object] = {}  # by what the library hands out for it


class Region:
    """A range of addresses; memory is there as soon as it is written to."""

    def __init__(self, size: int):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
        self.map = mmap.mmap(-1, max(int(size), mmap.PAGESIZE), flags=flags)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))

    def spoil(self, offset: int, size: int) -> None:
        ctypes.memset(self.address + offset, 0xFF, size)  # NaN in every type of weight


class Weights:
    """A VBAR. pages: number -> (serial, how many use it now), of those that lie on the card."""

    serial = 0
    all: list[Weights] = []  # those that must give way first come first

    def __init__(self, size: int):
        self.region, self.pages = Region(size + PAGE), {}
        Weights.all.append(self)

    def bring(self, pages: range) -> bool:
        missing = [page for page in pages if page not in self.pages]
        if not _room(len(missing) * PAGE, self):
            return False
        for page in missing:
            Weights.serial += 1
            self.pages[page] = [Weights.serial, 0]
        for page in pages:
            self.pages[page][1] += 1
        return True

    def give_way(self, size: int) -> int:
        """Bytes that became free, of so many that are wanted."""
        chosen = [page for page, (_, users) in sorted(self.pages.items(), reverse=True) if not users]
        chosen = chosen[: -(-int(min(size, 1 << 62)) // PAGE)]
        for page in chosen:
            del self.pages[page]
            self.region.spoil(page * PAGE, PAGE)
        device.hold(-len(chosen) * PAGE)
        return len(chosen) * PAGE


def _room(size: int, user: Weights) -> bool:
    """Whether so many bytes more find room, at the expense of models that were asked less recently."""
    from . import host

    lacking = size - (device.total - device.counts()["now"] - host.RESERVE)
    for other in Weights.all:
        if other is user or lacking <= 0:
            break
        lacking -= other.give_way(lacking)
    if lacking > 0:
        return False
    try:
        device.hold(size)
    except torch.cuda.OutOfMemoryError:
        return False
    return True


def _handed_out(thing) -> int:
    _objects[id(thing)] = thing
    return id(thing)


def _pages(offset: int, size: int) -> range:
    return range(offset // PAGE, (offset + max(size, 1) - 1) // PAGE + 1)


# ---- the library's functions, by the names by which comfy-aimdo calls them ------------------------------------------------------


def _nothing(*_) -> None:
    """Needs no doing here."""


def _done(*_) -> bool:
    return True


set_log_callback = set_simple_vram_headroom = set_nvml_pressure = aimdo_analyze = cleanup = plat_cleanup = _nothing
set_log_level_none = set_log_level_critical = set_log_level_error = set_log_level_warning = _nothing
set_log_level_info = set_log_level_debug = set_log_level_verbose = set_log_level_vverbose = _nothing
# how much of a model may lie on the card at most: here that is ``host.memory``'s to say
vbar_set_watermark = vbar_set_watermark_limit = vbars_reset_watermark_limits = _nothing
hostbuf_file_reader_cleanup = _nothing
plat_init = hostbuf_register = hostbuf_unregister = model_mmap_bounce = _done


def init(devices, headrooms, count: int) -> bool:
    return count == 1


def get_devctx(number: int) -> int:
    return number + 1


def get_total_vram_usage(_) -> int:
    return vbars_analyze(_, False)


def vbar_allocate(_, size: int, number: int) -> int:
    return _handed_out(Weights(size))


def vbar_get(_, weights: int) -> int:
    return _objects[weights].region.address


def vbar_free(_, weights: int) -> None:
    given = _objects[weights]  # its addresses stay, so that a late reader reads NaN
    for page in given.pages.values():
        page[1] = 0
    given.give_way(1 << 62)
    Weights.all.remove(given)


def vbar_prioritize(_, weights: int, clamp: int) -> None:
    Weights.all.remove(_objects[weights])
    Weights.all.append(_objects[weights])


def vbar_deprioritize(_, weights: int) -> None:
    Weights.all.remove(_objects[weights])
    Weights.all.insert(0, _objects[weights])


def vbar_fault(_, weights: int, offset: int, size: int, signature) -> int:
    global missed
    here = _objects[weights]
    if not here.bring(_pages(offset, size)):
        missed += 1
        return NO_ROOM
    # a page that comes back has a later number, so the latest says whether all of them are as they were
    signature[0] = max(here.pages[page][0] for page in _pages(offset, size))
    return DONE


def vbar_unpin(_, weights: int, offset: int, size: int) -> None:
    here = _objects[weights]
    for page in _pages(offset, size):
        if page in here.pages:
            here.pages[page][1] = max(0, here.pages[page][1] - 1)
    if short:
        here.give_way(1 << 62)


def vbar_loaded_size(_, weights: int) -> int:
    return len(_objects[weights].pages) * PAGE


def vbar_free_memory(_, weights: int, size: int) -> int:
    return _objects[weights].give_way(size)


def vbars_analyze(_, in_words: bool) -> int:
    return sum(len(weights.pages) for weights in Weights.all) * PAGE


def vbar_get_nr_pages(_, weights: int) -> int:
    return len(_objects[weights].region.map) // PAGE


def vbar_get_watermark(_, weights: int) -> int:
    return vbar_get_nr_pages(_, weights)


def vbar_get_residency(_, weights: int, flags, count: int) -> None:
    for page, (_, users) in _objects[weights].pages.items():
        flags[page] = 1 | 2 * bool(users)


class Buffer(Region):
    """On the card, for weights that found no room; its size grows and its address stays."""

    used = 0


def vrambuf_create(number: int, largest: int) -> int:
    return _handed_out(Buffer(min(largest, 1 << 32)))


def vrambuf_get(buffer: int) -> int:
    return _objects[buffer].address


def vrambuf_grow(buffer: int, size: int) -> bool:
    here, size = _objects[buffer], -(-size // PAGE) * PAGE
    if size > here.used:
        try:
            device.hold(size - here.used)
        except torch.cuda.OutOfMemoryError:
            return False
        here.used = size
    return True


def vrambuf_destroy(buffer: int) -> bool:
    here = _objects[buffer]  # its addresses stay too
    here.spoil(0, here.used)
    device.hold(-here.used)
    here.used = 0
    return True


class Pinned(Region):
    """In RAM, for copies of weights that the card fetches quickly."""

    size = 0


def hostbuf_allocate(prewarm: int, largest: int, cold: bool) -> int:
    return _handed_out(Pinned(largest))


def hostbuf_free(buffer: int) -> None:
    _objects.pop(buffer)


def hostbuf_get_raw_address(buffer: int) -> int:
    return _objects[buffer].address


def hostbuf_extend(buffer: int, size: int, again: bool, register: bool, grown) -> int:
    here = _objects[buffer]
    if here.size + size > len(here.map):
        return 0
    here.size += size
    grown._obj.value = size
    return here.address


def hostbuf_truncate(buffer: int, size: int, unregister: bool) -> bool:
    _objects[buffer].size = size
    return True


def hostbuf_read_file_slice(buffer: int, number: int, file: int, place: int, size: int, offset: int, stream, card: int) -> bool:
    data = os.pread(file, size, place)
    ctypes.memmove(_objects[buffer].address + offset, data, size)
    if card:
        ctypes.memmove(card, data, size)
    return len(data) == size


def hostbuf_file_reader_read(number: int, file: int, place: int, size: int, stream, card: int, cold: bool) -> bool:
    data = os.pread(file, size, place)
    ctypes.memmove(card, data, len(data))
    return len(data) == size


class File:
    """A checkpoint: the host's tensors lie in this copy-on-write map of it."""

    def __init__(self, path: str):
        opened[path] += 1
        logging.info(f"simulated card: {path} is opened")
        self.file = os.open(path, os.O_RDONLY)
        self.map = mmap.mmap(self.file, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))


def model_mmap_allocate(path: bytes) -> int:
    return _handed_out(File(os.fsdecode(path)))


def model_mmap_get(file: int) -> int:
    return _objects[file].address


def model_mmap_get_file_handle(file: int) -> int:
    return _objects[file].file


def model_mmap_deallocate(file: int) -> None:
    os.close(_objects.pop(file).file)
