"""Makes the pack importable as ``posttrain`` and the host importable as ``comfy``.

The pack's own ``__init__`` is not run: it registers nodes, which pure tests do not need, and the pack's
``nodes`` folder must not shadow ComfyUI's ``nodes.py``, so the pack's root never goes on ``sys.path``.
"""
from __future__ import annotations

import os
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")

if "posttrain" not in sys.modules:
    pack = types.ModuleType("posttrain")
    pack.__path__ = [str(ROOT)]
    sys.modules["posttrain"] = pack

COMFYUI = os.environ.get("COMFYUI_DIR")
if COMFYUI and COMFYUI not in sys.path:
    sys.path.append(COMFYUI)
    # the host parses sys.argv at import: pytest's own flags must not reach it
    import comfy.options

    comfy.options.enable_args_parsing(False)
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
