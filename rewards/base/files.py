"""Files that are read and written whole: none that never ends, none cut short, none left over."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".posttrain-part"
OLD = 3600.0  # seconds after which a save that is not done will not be any more


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


@contextmanager
def written_whole(path: Path, own_folder: bool = False) -> Iterator[Path]:
    """``with written_whole(path) as beside``: what is written to ``beside`` becomes ``path``, on the disk and at once.

    Where the block raises, nothing changes. It happens in a folder of its own, so that whatever a library leaves there when the
    process is killed goes with it, at the next save. own_folder: nobody else writes beside ``path`` at the same time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, 0.0 if own_folder else OLD)
    place = path.with_name(f"{path.name[:200]}.{os.getpid()}{PART}")
    try:
        place.mkdir(exist_ok=True)
        beside = place / "whole"  # without the suffix: the host lists the files of its model folders
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def sweep(folder: Path, age: float = OLD) -> None:
    """Takes away what processes that were killed have left of a save, ``age`` seconds ago or more."""
    for place in folder.glob(f"*{PART}"):
        with suppress(OSError):
            if place.is_dir() and not place.is_symlink() and time.time() - place.stat().st_mtime >= age:
                shutil.rmtree(place, ignore_errors=True)
