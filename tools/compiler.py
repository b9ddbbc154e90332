"""Finds a C++ compiler for the tests on the simulated GPU, or installs one (standard library only)."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ("c++", "g++", "clang++") if os.name != "nt" else ("cl",)


class NoCompiler(RuntimeError):
    """No C++ compiler was found, nor could one be installed."""


def find() -> str | None:
    """Path of a compiler: CXX, or the machine's own."""
    return next((found for name in (os.environ.get("CXX"), *NAMES) if name and (found := shutil.which(name))), None)


def ensure() -> str:
    """Path of a C++ compiler; installs Debian's package where there is none."""
    if found := find():
        return found
    said = []
    if sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get"):
        print("No C++ compiler on this machine: installing g++ for the tests on the simulated GPU.", flush=True)
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-q", "-y", "g++"]):
            done = subprocess.run(command, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
            said.append(f"$ {' '.join(command)}\n{done.stdout[-600:]}")
        if found := find():
            return found
    raise NoCompiler("The tests on the simulated GPU need a C++ compiler and none was found. Install g++, or set CXX to a "
                     "compiler's path, and run this again.\n" + "\n".join(said))
