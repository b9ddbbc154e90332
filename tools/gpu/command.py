"""The command: packs what has to be carried, or measures on this machine's card within the time."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ..environment import ROOT, Environment
from . import carried
from .card import lacking

MINUTES, SPARE = 10.0, 0.5  # of which the last ones are kept for an end in words
NO_CARD = 3  # exit code
# as develop.py: the user's directory stays where it is
MODULE = "import runpy, sys; sys.path[0] = sys.argv.pop(1); runpy.run_module(sys.argv.pop(1), None, '__main__', True)"


def main(arguments: list[str], environment: Callable[[], Environment]) -> int:
    """environment: sets the pinned one up, which a machine without network does not have."""
    chosen = parser().parse_args(arguments)
    if chosen.pack:
        size = carried.pack(environment(), chosen.pack.absolute(), chosen.for_python, chosen.has)
        print(f"{chosen.pack}: {size / 1e6:.1f} MB. There: python develop.py gpu --from {chosen.pack.name}")
        return 0
    if why := lacking():
        print(f"No NVIDIA card is to be had here: {why}; nothing was measured.", file=sys.stderr)
        return NO_CARD
    if not chosen.folder:
        env = environment()
        return measure(str(env.python), env.variables(), chosen.minutes)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        host, packages = carried.laid_out(chosen.folder.absolute(), Path(place))
        variables = os.environ | {"COMFYUI_DIR": str(host), "PYTHONPATH": str(packages), "PYTHONUTF8": "1",
                                  "PYTHONUNBUFFERED": "1"}  # fmt: skip
        return measure(sys.executable, variables, chosen.minutes - (time.monotonic() - begun) / 60)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="develop.py gpu", allow_abbrev=False, description="Measures what only a card can show.")
    made.add_argument("--pack", type=Path, metavar="FOLDER", help="make a folder for a machine without network, under 64 MB")
    made.add_argument("--for-python", metavar="3.12", default="{}.{}".format(*sys.version_info[:2]), help="of that machine")
    made.add_argument("--has", nargs="+", default=[], metavar="NAME", help="packages that it has, which stay out")
    made.add_argument("--from", type=Path, metavar="FOLDER", dest="folder", help="use this folder, and this Python's torch")
    made.add_argument("--minutes", type=float, default=MINUTES, help="that it may take at most (10)")
    return made


def measure(python: str, variables: Mapping[str, str], minutes: float) -> int:
    command = [python, "-c", MODULE, str(ROOT), "benchmarks.gpu.run", "--minutes", str(minutes - SPARE)]
    process = subprocess.Popen(command, env=variables)
    try:
        return process.wait(timeout=60 * minutes)
    except subprocess.TimeoutExpired:
        print(f"Stopped: {minutes:.1f} minutes are over. docs/gpu.md holds what was measured until then, and names what was "
              "left out.", file=sys.stderr)  # fmt: skip
        return 1
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
