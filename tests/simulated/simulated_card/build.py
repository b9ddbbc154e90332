"""Builds the simulated device's extension, once for each state of its sources and each release of torch."""
from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
NAME = "simulated_card_native"


class NoCompiler(RuntimeError):
    """The device cannot be built here; the message says what to do."""


def native(mac: bool = False):
    """The extension's module, built (15 seconds of CPU) where the cache folder does not have it. mac: for "mps", not "cuda"."""
    folder = _folder(mac)
    if not (folder / "done").exists():
        from posttrain.tools.environment import only_one
        folder.parent.mkdir(parents=True, exist_ok=True)
        with only_one(folder.with_suffix(".lock")):
            if not (folder / "done").exists():
                _build(folder, mac)
    return _load(folder)


def _folder(mac: bool) -> Path:
    from posttrain.tools.environment import cache_folder
    state = hashlib.sha256(f"{torch.__version__} {sys.version} {mac}".encode())
    for source in (*sorted(HERE.glob("*.h")), HERE / "device.cpp"):
        state.update(source.read_bytes())
    cache = Path(os.environ.get("POSTTRAIN_CACHE") or cache_folder())
    return cache / "simulated" / state.hexdigest()[:16]


def _build(folder: Path, mac: bool) -> None:
    from torch.utils import cpp_extension
    # ninja is installed beside this Python, which is not always on PATH
    variables = os.environ | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
    if not shutil.which(cpp_extension.get_cxx_compiler()):
        raise NoCompiler("The simulated GPU needs a C++ compiler and none was found: install g++ (Debian: apt install g++), or "
                         "set CXX to a compiler's path, and run this again.")
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as part:  # a build that was cut off leaves nothing that looks whole
        # in a process of its own: torch loads what it has built, and no process can hold the device twice
        done = subprocess.run([sys.executable, "-P", __file__, part, "mac" if mac else ""], env=variables, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise NoCompiler(f"The simulated GPU could not be built. The compiler's last words:\n{done.stdout[-3000:]}")
        built = next(path for path in Path(part).glob(f"{NAME}.*") if path.suffix in (".so", ".pyd", ".dylib"))
        shutil.copy(built, folder / built.name)
    (folder / "done").touch()


def _load(folder: Path):
    path = next(folder.glob(f"{NAME}.*"))
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(NAME, loader))
    loader.exec_module(module)
    return module


if __name__ == "__main__":
    from torch.utils import cpp_extension
    cpp_extension.load(NAME, [str(HERE / "device.cpp")], build_directory=sys.argv[1],
                       extra_cflags=["-O1", "-w", *(["-DSIMULATED_MAC"] if sys.argv[2] else [])])
