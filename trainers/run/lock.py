"""An exclusive lock on a run folder. The operating system holds it, so a dead process holds nothing."""
from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import time
from pathlib import Path

from ...rewards.base.files import read_bytes

if os.name == "nt":
    import msvcrt
else:
    import fcntl

# Windows forbids reading locked bytes, so the lock sits far behind the text that says who holds it
FAR = 1 << 30
BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}


class RunInUse(RuntimeError):
    """Another training of the same name goes on at this moment."""


class RunLock:
    """Held from construction until ``release``. Raises RunInUse where somebody else, here or elsewhere, holds it."""

    def __init__(self, path: Path, run_name: str):
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        try:
            _lock(self._file)
        except OSError as error:
            holder = _holder(path)
            if error.errno in BUSY:
                os.close(self._file)
                raise RunInUse(f"run_name: the run '{run_name}' is being trained at this moment{holder}. Wait until it "
                               "ends, cancel it, or give this one another run_name.") from None
            # some network drives know no locks; that must not forbid training on them
            logging.warning("PostTrain: %s cannot be locked (%s); do not train this run twice at once", path, error)
        with contextlib.suppress(OSError):  # who holds it is only told for the other's message
            os.lseek(self._file, 0, os.SEEK_SET)
            os.ftruncate(self._file, 0)
            who = {"process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
            os.write(self._file, json.dumps(who).encode())

    @property
    def lost(self) -> bool:
        """Whether the file is not there any more: the folder was deleted, renamed or replaced while it was locked."""
        try:
            return not os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except OSError:
            return True

    def release(self) -> None:
        if self._file >= 0:
            os.close(self._file)  # drops the lock, too
            self._file = -1


def _lock(file: int) -> None:
    if os.name == "nt":
        os.lseek(file, FAR, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _holder(path: Path) -> str:
    try:
        who = json.loads(read_bytes(path))
        place = "in this ComfyUI" if who["process"] == os.getpid() else f"by process {who['process']}"
        return f" ({place}, since {who['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
