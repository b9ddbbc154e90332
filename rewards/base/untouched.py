"""Images that are judged by several stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor


@contextmanager
def untouched(images: Tensor, name: str) -> Iterator[None]:
    """``with untouched(images, a reward's name)``: ValueError where it has written into them, as far as torch counts that."""
    before = version(images)
    yield
    if version(images) != before:
        raise ValueError(
            f"The reward '{name}' has written into the images that it was given, which are also shown and judged by others. It "
            "has to work on a copy (images.clone()); ask the maker of its pack."
        )


def version(tensor: Tensor) -> int:
    """How often it was overwritten; an inference tensor, as quantised weights hold them, is not counted by autograd either."""
    return 0 if tensor.is_inference() else tensor._version
