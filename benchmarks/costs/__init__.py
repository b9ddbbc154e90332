"""Costs, as ratios and seconds with a limit each. One file per subject with ``measure() -> list[Measure]``."""
from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """One number. ``limit``: the most that is good, None for a number that is only reported."""

    name: str
    value: float
    unit: str  # "x" for a ratio, "s", "ms", "MB"
    limit: float | None = None
    detail: str = ""
