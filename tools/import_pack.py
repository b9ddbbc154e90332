"""What importing the pack costs ComfyUI: time, and modules that it brings in.

Run as a program it imports the pack once, as ComfyUI does, in a process that has only the host's modules in it.
"""
from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import subprocess
import sys
import tempfile
import time

from .host import PACK, ROOT, comfyui_folder


def import_cost(runs: int = 3) -> dict:
    """Of the quickest of ``runs`` fresh processes: ``seconds`` of processor time for the import alone, number of
    ``nodes``, and ``modules``, the top-level names that it brought in. Byte code is compiled before, as it is from the second
    start of a ComfyUI on."""
    with tempfile.TemporaryDirectory() as byte_code:
        command = [sys.executable, "-m", "tools.import_pack", byte_code]
        outputs = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True) for _ in range(runs + 1)]
    for output in outputs:
        if output.returncode != 0:
            raise RuntimeError(f"the pack could not be imported:\n{output.stderr[-3000:]}")
    return min((json.loads(output.stdout.splitlines()[-1]) for output in outputs[1:]), key=lambda cost: cost["seconds"])


def load_host() -> None:
    """What every ComfyUI has imported when it comes to the custom nodes, and a server as it has one then."""
    sys.path[:] = [str(comfyui_folder()), *(p for p in sys.path if p not in ("", str(ROOT)))]
    sys.argv[1:] = ["--cpu", "--database-url", "sqlite:///:memory:"]
    import comfy.options

    comfy.options.enable_args_parsing()
    # isort: off
    import utils.extra_config  # noqa: F401  first, as main.py does: nodes.py puts another "utils" in its way
    import execution  # noqa: F401
    import nodes  # noqa: F401
    import server
    # isort: on

    server.PromptServer(asyncio.new_event_loop())


def measure(byte_code: str) -> dict:
    load_host()
    sys.pycache_prefix, sys.dont_write_bytecode = byte_code, False
    before = set(sys.modules)
    spec = importlib.util.spec_from_file_location(PACK, ROOT / "__init__.py")
    pack = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = pack
    gc.collect()  # else a collection of the host's own 400,000 objects falls due in the middle, as long as ten imports
    started = time.process_time()
    spec.loader.exec_module(pack)
    seconds = time.process_time() - started
    brought = {name.split(".")[0] for name in set(sys.modules) - before}
    return {"seconds": seconds, "nodes": len(pack.NODE_CLASS_MAPPINGS), "modules": sorted(brought - {PACK})}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
