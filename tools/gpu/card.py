"""Whether an NVIDIA card is to be had, asked of its driver: torch need not be there."""

from __future__ import annotations

import ctypes
import sys

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


def lacking(driver: str = DRIVER) -> str:
    """Why there is none, in words; empty where there is one."""
    try:
        asked = ctypes.CDLL(driver)
    except OSError:
        return f"its driver ({driver}) is not installed"
    count = ctypes.c_int()
    code = asked.cuInit(0) or asked.cuDeviceGetCount(ctypes.byref(count))
    if code:
        return f"its driver answers with error {code}"
    return "" if count.value else "its driver sees none"
