"""Finds a C++ compiler for the tests on the simulated GPU, or installs one (standard library only)."""
from __future__ import annotations

import os
import shutil

from .installing import apt, attempt, has_apt

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
    if has_apt():
        print("No C++ compiler on this machine: installing g++ for the tests on the simulated GPU.", flush=True)
        said = [attempt(command, os.environ)[1] for command in apt("g++")]
        if found := find():
            return found
    raise NoCompiler("The tests on the simulated GPU need a C++ compiler and none was found. Install g++, or set CXX to a "
                     "compiler's path, and run this again.\n" + "\n".join(said))
