"""Images that are judged by several stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


@contextmanager
def untouched(images: Tensor, name: str) -> Iterator[None]:
    """``with untouched(images, a reward's name)``: ValueError where it has written into them, as far as torch counts that."""
    before = _version(images)
    yield
    if _version(images) != before:
        raise ValueError(
            f"The reward '{name}' has written into the images that it was given, which are also shown and judged by others. It "
            "has to work on a copy (images.clone()); ask the maker of its pack."
        )


def _version(images: Tensor) -> int:
    return 0 if images.is_inference() else images._version
