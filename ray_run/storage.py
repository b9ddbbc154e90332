"""A training's output folder on a storage that every machine reaches: a folder, or an address such as s3://bucket/folder.

The process that writes works in a folder of its own and keeps the storage the same as that. One that is started anew, on whatever
machine, fetches it and goes on from there; from then on it owns the storage, and one that still lives elsewhere ends.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

OUTPUT, LORAS, STATE, PART = "output", "loras", "state.json", ".part"
# a checkpoint is there after what belongs to it; a file that is being written, or belongs to one process, is not taken
LATE, SKIPPED, SKIPPED_NAMES = "checkpoints", (".tmp", ".posttrain-part", PART), ("lock",)
LOOK = 1.0  # seconds between looks


@contextlib.contextmanager
def output(
    settings: dict, rank: int, again: bool, lost: Callable[[], None], loras: Callable[[], Path]
) -> Iterator[tuple[list[str], bool]]:
    """Where this process writes. -> options of ComfyUI, and whether it goes on with what this command has begun. lost: called
    where another process has taken the storage; loras: the folder that Save LoRA has written to."""
    if rank or settings["storage"] is None:
        yield [], again
        return
    with tempfile.TemporaryDirectory(prefix="posttrain-output-", ignore_cleanup_errors=True) as own:
        begun, there = time.time(), Storage(settings["storage"], Path(own), settings["command"])
        again = there.fetch() and again
        with there.kept(lost):
            yield ["--output-directory", own], again
        if not there.taken:
            there.keep_loras(loras(), begun)


class Taken(RuntimeError):
    """Another process has taken the storage since."""


class Storage:
    """where: a folder with its whole path, or an address that pyarrow knows; own: the folder that the storage is kept the same
    as; command: of which this process is, with a name that no other one has."""

    def __init__(self, where: str, own: Path, command: str):
        self._files, self._root = opened(where)
        self._own, self._command, self._owner = own, command, uuid.uuid4().hex
        self._there: dict[str, tuple[int, int]] = {}
        self.taken = False

    def fetch(self) -> bool:
        """Takes the storage, and what is there. -> whether this command has kept something there before."""
        from pyarrow import fs

        before = self._state()
        self._take(before.get("command", ""))
        folder = f"{self._root}/{OUTPUT}"
        self._files.create_dir(folder, recursive=True)
        for each in self._files.get_file_info(fs.FileSelector(folder, recursive=True)):
            inside = Path(each.path[len(folder) + 1 :])
            if each.type == fs.FileType.File and is_whole(inside):
                place = self._own / inside
                place.parent.mkdir(parents=True, exist_ok=True)
                with self._files.open_input_stream(each.path) as there, place.open("wb") as here:
                    shutil.copyfileobj(there, here)
        self._there = states(self._own)
        return before.get("command") == self._command

    def keep(self) -> None:
        """What has changed since goes there. Raises Taken, OSError.

        Checkpoints come last, so that a curve is never behind them, and what has gone goes after that: a process that dies in
        between leaves a run that can be gone on with, or one that this command has not kept yet, with the old one beside it.
        """
        now = states(self._own)
        changed = [place for place, state in now.items() if self._there.get(place) != state]
        gone = self._there.keys() - now.keys()
        if not changed and not gone:
            return
        state = self._state()
        if state.get("owner") != self._owner:
            raise Taken("another process has taken this training's storage and goes on with it, so this one ends")
        self._send(changed)
        for place in gone:
            with contextlib.suppress(FileNotFoundError):
                self._files.delete_file(f"{self._root}/{OUTPUT}/{place}")
        self._there = now
        if state.get("command") != self._command:
            self._take(self._command)

    @contextlib.contextmanager
    def kept(self, lost: Callable[[], None]) -> Iterator[None]:
        """Inside of it, and once more at its end. lost: called where another process has taken the storage."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(LOOK):
                try:
                    self._keep_or_tell(lost)
                except OSError as error:
                    print(f"PostTrain: the storage does not answer ({error}); it is asked again", file=sys.stderr, flush=True)

        watching = threading.Thread(target=watch, name="storage", daemon=True)
        watching.start()
        try:
            yield
        finally:
            over.set()
            watching.join()
        self._keep_or_tell(lost)

    def _keep_or_tell(self, lost: Callable[[], None]) -> None:
        try:
            if not self.taken:
                self.keep()
        except Taken as error:
            self.taken = True
            print(f"PostTrain: {error}", file=sys.stderr, flush=True)
            lost()

    def keep_loras(self, folder: Path, since: float) -> None:
        """Those that were saved since then: a folder of models is not part of the output."""
        for path in sorted(folder.rglob("*.safetensors")):
            if path.stat().st_mtime >= since:
                self._write(f"{LORAS}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def _send(self, places: list[str]) -> None:
        for place in sorted(places, key=lambda place: (LATE in place, place)):
            with contextlib.suppress(FileNotFoundError):  # it has gone since, or will be sent the next time
                self._write(f"{OUTPUT}/{place}", (self._own / place).read_bytes())

    def _take(self, command: str) -> None:
        self._write(STATE, json.dumps({"owner": self._owner, "command": command}).encode())

    def _state(self) -> dict:
        try:
            with self._files.open_input_stream(f"{self._root}/{STATE}") as stream:
                return json.loads(stream.read())
        except FileNotFoundError:
            return {}

    def _write(self, place: str, content: bytes) -> None:
        """Whole or not at all."""
        path = f"{self._root}/{place}"
        self._files.create_dir(path.rpartition("/")[0], recursive=True)
        with self._files.open_output_stream(path + PART) as stream:
            stream.write(content)
        self._files.move(path + PART, path)


def states(folder: Path) -> dict[str, tuple[int, int]]:
    """Of each whole file in it: when it was written, and its size."""
    found = {}
    for path in folder.rglob("*"):
        if is_whole(path.relative_to(folder)):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    told = path.stat()
                    found[path.relative_to(folder).as_posix()] = (told.st_mtime_ns, told.st_size)
    return found


def is_whole(path: Path) -> bool:
    return path.name not in SKIPPED_NAMES and not any(part.endswith(SKIPPED) or part.startswith(".tmp") for part in path.parts)


def below(where: str, name: str) -> str:
    """The address of something in a storage; what stands behind a question mark is how to reach it."""
    address, mark, how = where.partition("?") if "://" in where else (where, "", "")
    return f"{address.rstrip('/')}/{name}{mark}{how}"


def opened(where: str):
    """The file system and the folder in it. ValueError, in words, where there is none."""
    from pyarrow import fs

    try:
        files, root = fs.FileSystem.from_uri(where)
        files.create_dir(root, recursive=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--storage: {where} is neither a folder that can be written nor an address that pyarrow can open ({error})"
        ) from None
    return files, root.rstrip("/")
