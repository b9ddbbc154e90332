"""What a piece of work takes: seconds, and the most bytes on the card."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import comfy.model_management as management
import torch

from ...rewards.base.words import brief

Found = TypeVar("Found")


@dataclass(frozen=True)
class Taken:
    """bytes: the most on the card at once, its own weights included; None where the device does not say."""

    seconds: float
    bytes: int | None
    __repr__ = brief


def metered(device: torch.device, work: Callable[[], Found]) -> tuple[Found, Taken]:
    """``work()``, begun on a card from which the host has moved every model."""
    management.unload_all_models()
    on_card = device.type == "cuda"
    held = torch.cuda.memory_allocated(device) if on_card else 0
    if on_card:
        torch.cuda.reset_peak_memory_stats(device)
    begun = time.perf_counter()
    found = work()
    if on_card:
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - begun
    return found, Taken(seconds, torch.cuda.max_memory_allocated(device) - held if on_card else None)


def room_on(device: torch.device) -> int:
    """Bytes of the card that are free once every model is moved off it."""
    management.unload_all_models()
    return int(management.get_free_memory(device))
