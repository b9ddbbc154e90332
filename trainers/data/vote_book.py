"""Writes votes: a folder with votes.jsonl, as votes.py reads it, and the images that were voted on."""
from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...rewards.base.files import read_bytes
from ...rewards.base.words import brief

VOTES, IMAGES = "votes.jsonl", "images"


@dataclass(frozen=True)
class SeenPair:
    """Two images that were judged side by side. files: of the images, as they stood from left to right; answer: their votes in
    that order, (0, 0) for a tie."""

    id: str
    prompt: str
    files: tuple[Path, Path]
    answer: tuple[int, int]
    __repr__ = brief


class VoteBook:
    """The votes of one folder. Every vote is on the disk when ``add`` returns; a later one on the same image replaces it."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.file = self.folder / VOTES
        self._torn = False  # whether the last line was cut short
        self._ties: set[tuple[str, str]] = set()
        self._known: dict[tuple[str, str], int] = {}
        self._places: dict[tuple[str, str], dict[str, int]] = {}  # (pair, prompt) -> digest -> place
        self._read()

    def vote_on(self, image: bytes, prompt: str) -> int:
        """1: up, -1: down, 0: none yet, or withdrawn. image: the bytes of its file."""
        return self._known.get((sha256(image), prompt), 0)

    def is_tie(self, image: bytes, prompt: str) -> bool:
        """Whether the last word on an image was that it is neither better nor worse than the one beside it."""
        return (sha256(image), prompt) in self._ties

    def pairs(self) -> list[SeenPair]:
        """Those of two images seen side by side that were judged: one is better, neither is, or both are bad."""
        found = []
        for (pair, prompt), places in self._places.items():
            seen = [digest for digest in sorted(places, key=places.__getitem__) if self._answered(digest, prompt)]
            if len(seen) == 2:
                first, second = (self.folder / _file_name(digest) for digest in seen)
                answer = (self._known[seen[0], prompt], self._known[seen[1], prompt])
                found.append(SeenPair(pair, prompt, (first, second), answer))
        return found

    def _answered(self, digest: str, prompt: str) -> bool:
        return bool(self._known.get((digest, prompt))) or (digest, prompt) in self._ties

    def add(
        self, image: bytes, prompt: str, vote: int, pair: str = "", tie: bool = False, place: int | None = None
    ) -> None:
        """vote: 1, -1 or 0. pair: images with the same one were seen side by side, and are paired with each other only; place:
        from the left, counted from 0. tie: a vote of 0 that says that neither is better, and withdraws none.

        Raises OSError where the disk does not take it.
        """
        digest = sha256(image)
        name = _file_name(digest)
        (self.folder / IMAGES).mkdir(parents=True, exist_ok=True)
        if not (self.folder / name).exists():
            beside = (self.folder / name).with_suffix(".tmp")
            beside.write_bytes(image)
            beside.replace(self.folder / name)
        record = {"image": name, "prompt": prompt, "vote": vote, "image_sha256": digest, "time": round(time.time(), 3)}
        more = ({"pair_id": pair} if pair else {}) | ({"tie": True} if tie else {}) | ({} if place is None else {"place": place})
        append_line(self.file, record | more, self._torn)
        self._torn = False
        self._remember(record | more)

    def _remember(self, record: dict) -> None:
        """Raises KeyError, ValueError or TypeError where it is no vote."""
        key, vote, tie = (record["image_sha256"], record["prompt"]), int(record["vote"]), record.get("tie") is True
        self._known[key] = vote
        (self._ties.add if tie and not vote else self._ties.discard)(key)
        if type(record.get("place")) is int and record.get("pair_id"):
            self._places.setdefault((record["pair_id"], key[1]), {})[key[0]] = record["place"]

    def _read(self) -> None:
        records, self._torn = read_records(self.file)
        for record in records:
            with contextlib.suppress(ValueError, KeyError, TypeError):  # written by hand without a digest
                self._remember(record)


def _file_name(digest: str) -> str:
    return f"{IMAGES}/{digest[:16]}.png"


def read_records(path: Path) -> tuple[list, bool]:
    """What each line holds as JSON, and whether the last one was cut short; nothing where there is no file."""
    content = read_bytes(path) if path.is_file() else b""
    found = []
    for line in content.split(b"\n"):
        with contextlib.suppress(ValueError, RecursionError):  # a line that was cut short
            found.append(json.loads(line))
    return found, bool(content) and not content.endswith(b"\n")


def append_line(path: Path, record: dict, torn: bool = False) -> None:
    """The whole line or nothing of it: half a line would swallow the next one. torn: the last one was cut short."""
    line = ("\n" if torn else "") + json.dumps(record, ensure_ascii=False) + "\n"
    data = line.encode("utf-8", "backslashreplace")
    with open(path, "ab", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, "the disk is full")
            os.fsync(file.fileno())
        except OSError:
            file.truncate(end)
            raise


def together(images: Iterable[bytes]) -> str:
    """A name for images that are seen side by side, whatever their order."""
    return hashlib.sha256("".join(sorted(map(sha256, images))).encode()).hexdigest()[:16]


def sha256(image: bytes) -> str:
    return hashlib.sha256(image).hexdigest()
