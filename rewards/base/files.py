"""Files that are read and written whole: none that never ends, none cut short, none left over."""
from __future__ import annotations

import errno
import os
from pathlib import Path


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. OSError for everything that is none: a pipe would be waited for, a device may have no end."""
    if not path.is_file():
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return path.read_bytes()


def is_file(path: Path) -> bool:
    """Whether a path is a file that ends: no folder, no pipe, no device, and no name that the system cannot have."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
