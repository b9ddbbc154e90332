"""Writes votes: a folder with votes.jsonl, as votes.py reads it, and the images that were voted on."""
from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from ...rewards.base.files import read_bytes

VOTES, IMAGES = "votes.jsonl", "images"


class VoteBook:
    """The votes of one folder. Every vote is on the disk when ``add`` returns; a later one on the same image replaces it."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.file = self.folder / VOTES
        self._torn = False  # whether the last line was cut short
        self._ties: set[tuple[str, str]] = set()
        self._known: dict[tuple[str, str], int] = {}
        self._read()

    def vote_on(self, image: bytes, prompt: str) -> int:
        """1: up, -1: down, 0: none yet, or withdrawn. image: the bytes of its file."""
        return self._known.get((sha256(image), prompt), 0)

    def is_tie(self, image: bytes, prompt: str) -> bool:
        """Whether the last word on an image was that it is neither better nor worse than the one beside it."""
        return (sha256(image), prompt) in self._ties

    def add(self, image: bytes, prompt: str, vote: int, pair: str = "", tie: bool = False) -> None:
        """vote: 1, -1 or 0. pair: images with the same one were seen side by side, and are paired with each other only.
        tie: a vote of 0 that says that neither is better, and withdraws none.

        Raises OSError where the disk does not take it.
        """
        digest = sha256(image)
        name = f"{IMAGES}/{digest[:16]}.png"
        (self.folder / IMAGES).mkdir(parents=True, exist_ok=True)
        if not (self.folder / name).exists():
            beside = (self.folder / name).with_suffix(".tmp")
            beside.write_bytes(image)
            beside.replace(self.folder / name)
        record = {"image": name, "prompt": prompt, "vote": vote, "image_sha256": digest, "time": round(time.time(), 3)}
        more = ({"pair_id": pair} if pair else {}) | ({"tie": True} if tie else {})
        line = json.dumps(record | more, ensure_ascii=False)
        self._append((("\n" if self._torn else "") + line + "\n").encode("utf-8", "backslashreplace"))
        self._torn = False
        self._remember(digest, prompt, vote, tie)

    def _remember(self, digest: str, prompt: str, vote: int, tie: bool) -> None:
        self._known[digest, prompt] = vote
        (self._ties.add if tie and not vote else self._ties.discard)((digest, prompt))

    def _append(self, line: bytes) -> None:
        """The whole line or nothing of it: half a line would swallow the next vote."""
        with open(self.file, "ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, "the disk is full")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    def _read(self) -> None:
        if not self.file.is_file():
            return
        content = read_bytes(self.file)
        self._torn = bool(content) and not content.endswith(b"\n")
        for line in content.split(b"\n"):
            try:
                record = json.loads(line)
                self._remember(record["image_sha256"], record["prompt"], int(record["vote"]), record.get("tie") is True)
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # a line that was cut short, or written by hand without a digest


def together(images: Iterable[bytes]) -> str:
    """A name for images that are seen side by side, whatever their order."""
    return hashlib.sha256("".join(sorted(map(sha256, images))).encode()).hexdigest()[:16]


def sha256(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()
