"""The pack as the package ``posttrain``, without running its ``__init__`` (which registers nodes with a server)."""
from __future__ import annotations

import importlib
import sys
import types

from .host import ROOT, comfyui_folder


def module(name: str, host: bool = False):
    """``module("toy.world")`` imports that module of the pack; ``host`` makes ComfyUI importable first (CPU only)."""
    if "posttrain" not in sys.modules:
        package = types.ModuleType("posttrain")
        package.__path__ = [str(ROOT)]
        sys.modules["posttrain"] = package
    if host and "comfy.cli_args" not in sys.modules:
        # the pack's folder must not shadow ComfyUI's modules of the same names
        sys.path[:] = [str(comfyui_folder()), *(p for p in sys.path if p not in ("", str(ROOT)))]
        import comfy.options

        comfy.options.enable_args_parsing(False)
        import comfy.cli_args

        comfy.cli_args.args.cpu = True
    return importlib.import_module(f"posttrain.{name}")
