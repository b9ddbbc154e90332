"""What torch.cuda and torch.mps say of the simulated device. What is not here asks a driver and fails, as it should be seen to."""
from __future__ import annotations

import contextlib
from types import SimpleNamespace

import torch

from . import device

NAME, CAPABILITY = "Simulated GPU", (8, 6)


def for_cuda(native) -> None:
    torch.version.cuda = "12.8"
    for name, answer in (_questions() | _memory() | _streams(native) | _random(native)).items():
        setattr(torch.cuda, name, answer)


def for_mac(native) -> None:
    torch.backends.mps.is_available = torch.backends.mps.is_built = lambda: True
    nothing = dict.fromkeys(("synchronize", "empty_cache", "set_per_process_memory_fraction"), lambda *_: None)
    memory = dict.fromkeys(("current_allocated_memory", "driver_allocated_memory"), lambda: device.counts()["now"])
    generator = native.default_generator()
    seeds = dict(manual_seed=generator.manual_seed, seed=generator.seed, get_rng_state=lambda *_: generator.get_state(),
                 set_rng_state=lambda state, *_: generator.set_state(state), _get_default_mps_generator=lambda: generator)
    for name, answer in (nothing | memory | seeds).items():
        setattr(torch.mps, name, answer)


def _questions() -> dict:
    return dict(
        _lazy_init=lambda: None, is_initialized=lambda: True, init=lambda: None, is_available=lambda: True,
        device_count=lambda: 1, current_device=lambda: 0, set_device=lambda _: None, _is_in_bad_fork=lambda: False,
        get_device_name=lambda *_: NAME, get_device_capability=lambda *_: CAPABILITY,
        get_device_properties=lambda *_: SimpleNamespace(name=NAME, major=CAPABILITY[0], minor=CAPABILITY[1], gcnArchName="",
                                                         total_memory=device.total, multi_processor_count=28),
        is_bf16_supported=lambda *_, **__: True, get_allocator_backend=lambda: "native", get_arch_list=lambda: ["sm_86"])


def _memory() -> dict:
    def number(key):
        return lambda *_: device.counts()[key]

    def stats(*_):
        found = device.counts()
        return {f"{kind}_bytes.all.{when}": found[key] for kind in ("allocated", "reserved", "active")
                for when, key in (("current", "now"), ("peak", "peak"))}

    return dict(mem_get_info=lambda *_: (max(0, device.total - device.counts()["now"]), device.total), memory_stats=stats,
                memory_allocated=number("now"), max_memory_allocated=number("peak"), memory_reserved=number("now"),
                max_memory_reserved=number("peak"), reset_peak_memory_stats=lambda *_: device.reset(),
                empty_cache=lambda: None, ipc_collect=lambda: None, cudart=lambda: _Driver)


class _Driver:
    pinned: dict[int, int] = {}  # address -> size

    @classmethod
    def cudaHostRegister(cls, address, size, _):
        if address in cls.pinned:
            return 712  # cudaErrorHostMemoryAlreadyRegistered
        cls.pinned[address] = size
        return 0

    @classmethod
    def cudaHostUnregister(cls, address):
        return 0 if cls.pinned.pop(address, None) is not None else 713


def _streams(native) -> dict:
    class Stream:
        """Operators run at once; who waits for whom is noted, see ``device.races``."""
        device, priority = torch.device("cuda:0"), 0
        made = 0

        def __init__(self, *_, number: int | None = None, **__):
            if number is None:
                Stream.made += 1
            self.cuda_stream = Stream.made if number is None else number

        def wait_stream(self, other):
            native.wait_stream(self.cuda_stream, other.cuda_stream)

        def synchronize(self):
            native.synchronize(self.cuda_stream)

        def __eq__(self, other):
            return self.cuda_stream == getattr(other, "cuda_stream", None)

        def __hash__(self):
            return hash(self.cuda_stream)

    class Event:
        def __init__(self, *_, **__):
            pass

        def nothing(self, *_, **__):
            return None

        record = wait = synchronize = nothing

    @contextlib.contextmanager
    def stream(given):
        before = None if given is None else native.use_stream(given.cuda_stream)
        try:
            yield
        finally:
            if before is not None:
                native.use_stream(before)

    def synchronize(*_):
        for number in range(Stream.made + 1):
            native.synchronize(number)

    return dict(Stream=Stream, Event=Event, stream=stream, synchronize=synchronize,
                current_stream=lambda *_: Stream(number=native.stream()), default_stream=lambda *_: Stream(number=0))


def _random(native) -> dict:
    generator = native.default_generator()
    return dict(default_generators=(generator,), manual_seed=generator.manual_seed, manual_seed_all=generator.manual_seed,
                seed=generator.seed, initial_seed=generator.initial_seed, get_rng_state=lambda *_: generator.get_state(),
                set_rng_state=lambda state, *_: generator.set_state(state), get_rng_state_all=lambda: [generator.get_state()],
                set_rng_state_all=lambda states: generator.set_state(states[0]))
