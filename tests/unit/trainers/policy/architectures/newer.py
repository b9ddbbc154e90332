"""Architectures that only hosts newer than the pinned one have."""

from __future__ import annotations

PIXELS = ()
ROWS = ()
