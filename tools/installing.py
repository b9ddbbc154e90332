"""Tries to install what a machine lacks, and keeps what was said (standard library only)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping


def has_apt() -> bool:
    """Whether Debian's packages may be installed here."""
    return sys.platform == "linux" and os.geteuid() == 0 and bool(shutil.which("apt-get"))


def apt(package: str) -> list[list[str]]:
    """The commands that install one of Debian's packages."""
    return [["apt-get", "update", "-q"], ["apt-get", "install", "-q", "-y", package]]


def attempt(command: list[str], variables: Mapping[str, str]) -> tuple[bool, str]:
    """(whether the command succeeded, the command and the end of what it said)."""
    done = subprocess.run(
        command,
        env={**variables, "DEBIAN_FRONTEND": "noninteractive"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )
    return done.returncode == 0, f"$ {' '.join(command)}\n{done.stdout[-600:]}"
