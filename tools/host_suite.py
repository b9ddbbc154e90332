"""ComfyUI's own tests beside the pack: python develop.py test --host-suite [folders of the host's tests].

They run twice in a copy of the host: as it is, and with the pack in its custom_nodes. For the unit tests it is loaded into
pytest's own process before any test is; the tests of the executor start servers, which load it as they load any pack.
Whatever passes without the pack has to pass with it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from .environment import ROOT, Environment
from .overlay import laid

FOLDERS = ("tests-unit",)  # tests/execution, which starts many servers, takes a quarter of an hour each way
PINS = ("pytest-asyncio==1.5.0", "pytest-aiohttp==1.1.1")  # ComfyUI's own tests ask for them
PACK = "ComfyUI-PostTrain"
PLUGIN = "posttrain_in_this_host"
LOADS_THE_PACK = f"""
import asyncio

def pytest_sessionstart(session):
    from comfy.cli_args import args
    args.cpu = True
    import utils.extra_config  # before nodes, as main.py does: nodes puts a utils.py in front of it
    import nodes
    assert asyncio.run(nodes.load_custom_node("custom_nodes/{PACK}")) and "PTTrain" in nodes.NODE_CLASS_MAPPINGS
"""


def plugins(env: Environment) -> Path:
    """The folder to put on PYTHONPATH for what the host's own tests ask of pytest."""
    return laid(env, "host-suite", "pytest's plugins for ComfyUI's own tests", PINS, lambda step: PINS)


def main(host: Path, folders: list[str]) -> int:
    """-> how many tests pass without the pack only."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "ComfyUI"
        shutil.copytree(host, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / f"{PLUGIN}.py").write_text(LOADS_THE_PACK)
        lost = 0
        for folder in folders or FOLDERS:
            print(f"{folder}, ComfyUI alone ...", flush=True)
            alone, seconds = outcomes(copy, folder, pack=False)
            (copy / "custom_nodes" / PACK).symlink_to(ROOT)
            print(f"{folder}, with the pack ...", flush=True)
            beside, more = outcomes(copy, folder, pack=True)
            (copy / "custom_nodes" / PACK).unlink()
            gone = sorted(test for test, passed in alone.items() if passed and not beside.get(test))
            print(f"{folder}: {sum(alone.values())} of {len(alone)} pass alone ({seconds:.0f} s), {sum(beside.values())} of "
                  f"{len(beside)} with the pack ({more:.0f} s)")  # fmt: skip
            for test in gone:
                print(f"  passes without the pack only: {test}")
            lost += len(gone) + (not alone)
        return lost


def outcomes(host: Path, folder: str, pack: bool) -> tuple[dict[str, bool], float]:
    """-> whether each test passed, and the seconds that all took. RuntimeError where pytest could not run them."""
    from .host import free_port  # its packages are in the environment, from outside of which this module is read, too

    report, began = host / "report.xml", time.monotonic()
    report.unlink(missing_ok=True)
    plugin = ["-p", PLUGIN] if pack and folder == "tests-unit" else []
    port = ["--skip-timing-checks", "--port", str(free_port())] if folder.startswith("tests/") else []
    run = subprocess.run(
        [sys.executable, "-m", "pytest", folder, "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *plugin, *port],
        cwd=host, capture_output=True, text=True, env=variables())  # fmt: skip
    found = {}
    if report.is_file():
        for case in ElementTree.parse(report).iter("testcase"):
            found[f"{case.get('classname')}.{case.get('name')}"] = not {child.tag for child in case} & {
                "failure",
                "error",
                "skipped",
            }
    if run.returncode not in (0, 1) or not found:
        raise RuntimeError(f"pytest could not run {folder}:\n{run.stdout[-3000:]}\n{run.stderr[-3000:]}")
    return found, time.monotonic() - began


def variables() -> dict[str, str]:
    """The tests start servers by the name "python"."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}


if __name__ == "__main__":
    sys.exit(min(1, main(Path(sys.argv[1]), sys.argv[2:])))
