"""The host on the card, and the pack as ``posttrain``. COMFYUI_DIR names the host; nothing of it may be imported before."""

from __future__ import annotations

import importlib
import os
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def start() -> None:
    """Once a process, where neither has begun yet."""
    host = os.environ["COMFYUI_DIR"]
    # the pack's folder must not shadow the host's modules of the same names
    sys.path[:] = [host, *(place for place in sys.path if place not in ("", str(ROOT), host))]
    import comfy.options

    comfy.options.enable_args_parsing(False)
    if "posttrain" not in sys.modules:
        package = types.ModuleType("posttrain")
        package.__path__ = [str(ROOT)]
        sys.modules["posttrain"] = package


def module(name: str):
    """A module of the pack."""
    return importlib.import_module(f"posttrain.{name}")
