"""Image files to pixels of one size."""
from __future__ import annotations

import io
from dataclasses import dataclass

import torch

from ...rewards.images import UnreadableImage, check_image, decoded
from .rows import BadRow, Picture

SIZE_RULES = ("crop to fill", "must have this size")


@dataclass(frozen=True)
class Frame:
    """The size that every image gets. rule: "crop to fill" scales until the frame is covered and cuts the centre out;
    "must have this size" leaves out what differs."""

    width: int
    height: int
    rule: str = SIZE_RULES[0]

    def __post_init__(self):
        if min(self.width, self.height) < 1:
            raise ValueError(f"width, height: {self.width} x {self.height} is not possible")
        if self.rule not in SIZE_RULES:
            raise ValueError(f"size rule: unknown {self.rule!r}; use one of {', '.join(SIZE_RULES)}")


def checked_image(picture: Picture) -> Picture:
    """The same picture, if its head is an image's; the rest is read when it is needed."""
    check_head(picture.read(), picture.name)
    return picture


def check_head(data: bytes, name: str) -> None:
    """BadRow where the bytes do not begin as an image's do."""
    try:
        check_image(io.BytesIO(data), name)
    except UnreadableImage:
        raise BadRow(f"{name} is not an image that can be read") from None


def pixels(pictures: tuple[Picture, ...], frame: Frame) -> torch.Tensor:
    """[N, H, W, 3] float32 in [0, 1]. BadRow where one cannot be read, or where they do not fit together."""
    import numpy
    from PIL import Image, ImageOps

    images = [_decoded(picture) for picture in pictures]
    size = (frame.width, frame.height)
    if frame.rule == SIZE_RULES[1] and {image.size for image in images} != {size}:
        sizes = " and ".join(f"{image.width} x {image.height}" for image in images)
        raise BadRow(f"the size is {sizes}, not {frame.width} x {frame.height}")
    arrays = [numpy.asarray(ImageOps.fit(image, size, Image.Resampling.LANCZOS)) for image in images]
    return torch.from_numpy(numpy.stack(arrays)).float() / 255


def _decoded(picture: Picture):
    try:
        return decoded(io.BytesIO(picture.read()), picture.name)
    except UnreadableImage as error:
        raise BadRow(f"{picture.name} is damaged ({error.reason})") from None
