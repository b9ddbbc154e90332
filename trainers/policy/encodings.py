"""Text encodings of a set of prompts: made when their turn comes, kept on the disk, in RAM only while an iteration uses them.

One file a text, in a folder that belongs to one value: to one text encoder with what the user's nodes have put on it. Two
values share none, since nothing but a question to all of its weights could tell whether two text encoders are alike.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from .scratch import scratch_folder

MOST_BYTES = 8 * 2**30  # on the disk; the oldest make room. 2,000 prompts of Flux, 13,000 of SDXL
KINDS = (torch.Tensor, str, int, float, bool, type(None))  # of what a file can hold


class Encodings(Sequence):
    """One CONDITIONING for each text, as ``encode`` (text -> CONDITIONING in RAM) answers it, bit for bit.

    ``prepare`` is told what comes next; what is asked for unprepared is read or made then.
    """

    given: tuple = ()  # CONDITIONINGs that somebody else made, and that may hold more than a text's encoding

    def __init__(self, texts: Sequence[str], encode: Callable[[str], list], most_bytes: int = MOST_BYTES):
        self._texts, self._encode = tuple(texts), encode
        self._held: dict[str, list] = {}
        self._disk = _Disk(most_bytes)

    def __len__(self) -> int:
        return len(self._texts)

    def __repr__(self) -> str:
        return f"Encodings of {len(self)}"

    def __getitem__(self, number):
        if isinstance(number, slice):
            return tuple(self[i] for i in range(*number.indices(len(self))))
        text = self._texts[number]
        found = self._held.get(text) or self._disk.read(text)
        return self._made(text)[0] if found is None else found

    def prepare(self, numbers: Iterable[int], ahead: Iterable[int] = ()) -> None:
        """Has these in RAM, and no others. Where one of them has to be made, those ``ahead`` are, too: the text encoder is
        loaded once for several iterations."""
        wanted = dict.fromkeys(self._texts[int(i)] for i in numbers)
        self._held = {text: found for text in wanted if (found := self._held.get(text) or self._disk.read(text)) is not None}
        missing = [text for text in wanted if text not in self._held]
        if missing:
            self._held |= {text: self._made(text)[0] for text in missing}
            self.make(ahead)

    def make(self, numbers: Iterable[int], report: Callable[[], None] = lambda: None) -> None:
        """Puts these on the disk, as far as it takes them without losing others of them. report: called for each."""
        bytes_made = 0
        for text in dict.fromkeys(self._texts[int(i)] for i in numbers):
            report()
            if text in self._disk:
                continue
            size = self._made(text)[1]
            bytes_made += size
            if not size or bytes_made > self._disk.most // 2:
                return

    def plus(self, more: Sequence) -> Sequence:
        """The same with more CONDITIONINGs, at the end."""
        return _Joined(self, more)

    def _made(self, text: str) -> tuple[list, int]:
        """-> the encoding, and its size on the disk, 0 where it is not there."""
        conditioning = self._encode(text)
        return conditioning, self._disk.write(text, conditioning)


class _Joined(Sequence):
    """``Encodings`` and more CONDITIONINGs: further ones, or a tuple."""

    def __init__(self, first: Encodings, second: Sequence):
        self._first, self._second = first, second
        self.given = second if isinstance(second, tuple) else ()

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def __repr__(self) -> str:
        return f"Encodings of {len(self)}"

    def __getitem__(self, number):
        if isinstance(number, slice):
            return tuple(self[i] for i in range(*number.indices(len(self))))
        number = range(len(self))[number]
        return self._first[number] if number < len(self._first) else self._second[number - len(self._first)]

    def prepare(self, numbers: Iterable[int], ahead: Iterable[int] = ()) -> None:
        numbers, first = list(numbers), len(self._first)
        self._first.prepare([i for i in numbers if i < first], ahead)
        if isinstance(self._second, Encodings) and self._second is not self._first:
            self._second.prepare([i - first for i in numbers if i >= first])


class _Disk:
    """Encodings by their text, at most ``most`` bytes of them. A disk that fails costs the files, never the run."""

    def __init__(self, most: int):
        self.most, self._bytes, self._refused = most, 0, False
        self._known: dict[str, tuple[int, int]] = {}  # text -> size and checksum, the oldest first
        self._folder: Path | None = None

    def __contains__(self, text: str) -> bool:
        return text in self._known

    def write(self, text: str, conditioning: list) -> int:
        """-> bytes on the disk, 0 where it could not be written."""
        data = packed(conditioning)
        if data is None or len(data) > self.most:
            return 0
        self._forget(text)
        while self._known and self._bytes + len(data) > self.most:
            self._forget(next(iter(self._known)))
        try:
            self._file(text).write_bytes(data)
        except OSError as error:
            if not self._refused:
                logging.warning(
                    "PostTrain: text encodings cannot be kept on the disk (%s); each is made again when it is needed",
                    error.strerror or error,
                )
            self._refused = True
            return 0
        self._known[text] = (len(data), zlib.crc32(data))
        self._bytes += len(data)
        return len(data)

    def read(self, text: str) -> list | None:
        """None where it is not there, or not as it was written."""
        if text not in self._known:
            return None
        try:
            data = self._file(text).read_bytes()
        except OSError:
            data = b""
        if (len(data), zlib.crc32(data)) != self._known[text]:
            self._forget(text)
            return None
        return unpacked(data)

    def _forget(self, text: str) -> None:
        size, _ = self._known.pop(text, (0, 0))
        self._bytes -= size
        if size:
            self._file(text).unlink(missing_ok=True)

    def _file(self, text: str) -> Path:
        if self._folder is None:
            self._folder = scratch_folder(self, "encodings")
        return self._folder / f"{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.safetensors"


def packed(conditioning: list) -> bytes | None:
    """A CONDITIONING as the bytes of a safetensors file; None where it holds what such a file cannot."""
    from safetensors import SafetensorError
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}

    def place(value: Any) -> Any:
        """What stands for a value in the file's plain part. TypeError where nothing can."""
        if isinstance(value, (list, tuple)):
            return {"list" if isinstance(value, list) else "tuple": [place(each) for each in value]}
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {"dict": {key: place(each) for key, each in value.items()}}
        if type(value) not in KINDS:
            raise TypeError
        if isinstance(value, torch.Tensor):
            tensors[str(len(tensors))] = value.detach().cpu().contiguous().clone()
            return {"tensor": str(len(tensors) - 1)}
        return {"value": value}

    try:
        plain = json.dumps(place(conditioning))
        return save(tensors, {"conditioning": plain})
    except (TypeError, ValueError, KeyError, RuntimeError, SafetensorError):  # hooks; numbers of a type that files do not know
        return None


def unpacked(data: bytes) -> list:
    """The CONDITIONING that ``packed`` was given."""
    from safetensors.torch import load

    tensors = load(data)
    length = int.from_bytes(data[:8], "little")
    plain = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["conditioning"])

    def value(place: dict) -> Any:
        ((kind, inner),) = place.items()
        if kind in ("list", "tuple"):
            found = [value(each) for each in inner]
            return found if kind == "list" else tuple(found)
        if kind == "dict":
            return {key: value(each) for key, each in inner.items()}
        return tensors[inner] if kind == "tensor" else inner

    return value(plain)
