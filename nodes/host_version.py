"""Which ComfyUI the pack needs, said in words before anything of an older one fails in its own."""
from __future__ import annotations

import re

OLDEST = "0.3.52"  # as in pyproject.toml; the tests run on it


def check() -> None:
    """ImportError, in words, on a ComfyUI older than OLDEST."""
    try:
        from comfyui_version import __version__ as version
    except ImportError:  # those of 2024 and before do not say
        version = ""
    if too_old(version):
        raise ImportError(f"ComfyUI-PostTrain needs ComfyUI {OLDEST} or newer, and this one {said(version)}. Update ComfyUI "
                          "and start it again; nothing else of it is affected.")


def too_old(version: str) -> bool:
    """Whether a version such as "0.3.40" or "v0.33.0-2-gabc" comes before OLDEST; one that is no number does not."""
    return not version or bool(numbers(version)) and numbers(version) < numbers(OLDEST)


def numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"v?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def said(version: str) -> str:
    return f"is {version}" if version else "does not say its version, as those before 2025"
