"""How much memory a run takes: of the process, and of an NVIDIA or AMD card the most within an iteration."""

from __future__ import annotations

import torch

GB = 1e9


def memory() -> dict[str, float]:
    """ "ram_gb", and "vram_gb" since the last call, where there is such a card that is in use."""
    import psutil

    found = {"ram_gb": psutil.Process().memory_info().rss / GB}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["vram_gb"] = torch.cuda.max_memory_reserved() / GB
        torch.cuda.reset_peak_memory_stats()
    return {name: round(value, 3) for name, value in found.items()}
