"""What preference data is made of, on the disk: images that a table holds, and latents. Read by the rows that are drawn."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass

import torch

from ...rewards.base.words import brief
from ..policy.scratch import scratch_folder

FULL = "make room there, or start ComfyUI with --temp-directory on another disk"


class ImageStore:
    """Images' bytes, one after the other in a file that is gone once no picture of it is left."""

    def __init__(self):
        self._file, self._end = scratch_folder(self, "images") / "images", 0

    def put(self, data: bytes) -> StoredImage:
        """ValueError where the disk is full."""
        try:
            with self._file.open("ab") as file:
                file.write(data)
        except OSError as error:
            raise ValueError(
                f"file: its images cannot be put into ComfyUI's temporary folder ({error.strerror or error}); {FULL}"
            ) from None
        self._end += len(data)
        return StoredImage(self, self._end - len(data), len(data))

    def read(self, start: int, length: int) -> bytes:
        with self._file.open("rb") as file:
            file.seek(start)
            return file.read(length)


@dataclass(frozen=True)
class StoredImage:
    """The bytes of one image of a store."""

    store: ImageStore
    start: int
    length: int
    __repr__ = brief

    def read(self) -> bytes:
        return self.store.read(self.start, self.length)


class StoredLatents:
    """[M, C, H, W] float16, read by ``latents[rows]`` ([N] int64 -> [N, C, H, W]); ``add`` puts one behind the others."""

    dtype = torch.float16

    def __init__(self):
        self._file, self.shape = scratch_folder(self, "latents") / "latents", torch.Size((0,))

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"StoredLatents of {len(self)}"

    @property
    def bytes(self) -> int:
        return 2 * math.prod(self.shape)

    def add(self, latent: torch.Tensor) -> int:
        """latent: [1, C, H, W]. -> its row. ValueError where the disk is full."""
        row = len(self)
        try:
            with self._file.open("ab") as file:
                file.write(latent.to("cpu", self.dtype).contiguous().numpy().tobytes())
        except OSError as error:
            raise ValueError(
                f"pairs: their latents cannot be put into ComfyUI's temporary folder ({error.strerror or error}); {FULL}"
            ) from None
        self.shape = torch.Size((row + 1, *latent.shape[1:]))
        return row

    def check_room(self, more: int) -> None:
        """ValueError where the disk has no room for ``more`` latents like those that are there."""
        wanted, free = more * self.bytes // max(1, len(self)), shutil.disk_usage(self._file.parent).free
        if wanted > free:
            raise ValueError(
                f"pairs: the latents of up to {more:,} images need {wanted / 2**30:.1f} GB in ComfyUI's temporary "
                f"folder, and {free / 2**30:.1f} GB are free on that disk; {FULL}, or lower the limit"
            )

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """ValueError where somebody has taken the file away."""
        size = self.bytes // max(1, len(self))
        found = torch.empty((len(rows), *self.shape[1:]), dtype=self.dtype)
        try:
            with self._file.open("rb") as file:
                for place, row in zip(found, rows.tolist()):
                    file.seek(range(len(self))[row] * size)
                    place.copy_(torch.frombuffer(bytearray(file.read(size)), dtype=self.dtype).view(self.shape[1:]))
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(
                f"pairs: their latents in ComfyUI's temporary folder cannot be read any more ({error}); was it "
                "emptied? Restart ComfyUI and queue again"
            ) from None
        return found
