"""Images from a folder on disk, read one at a time: sizes may differ, and folders may be large.

A picture's prompt is the .txt file of the same name.
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .base.files import is_file, read_bytes
from .base.reward import Prompt
from .base.words import shown
from .images import OTHER_SUFFIXES, SUFFIXES

LONGEST = 1 << 20  # bytes of a caption


def images_in(folder: Path) -> list[Path]:
    """The images of a folder and of those in it, by name. Raises FileNotFoundError where there are none."""
    found = sorted(p for p in folder.rglob("*") if is_image(p)) if folder.is_dir() else []
    if not found:
        raise FileNotFoundError(f"folder: {shown(folder.name)} {'holds no images' if folder.is_dir() else 'does not exist'} "
                                f"({', '.join(SUFFIXES)}).")
    return found


def is_image(path: Path) -> bool:
    """Whether it is called like an image and is a file: no pipe, no folder, none of those that a Mac adds ("._a.png")."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._") and is_file(path)


def other_images(folder: Path, deep: bool = False) -> list[str]:
    """A word for each file of a kind of image that is not read here, which would otherwise be missing without a word."""
    found = sorted(folder.rglob("*") if deep else folder.iterdir())
    return [f"{shown(path.name)}: {path.suffix.lower()} is not read here; save it as PNG or JPEG" for path in found
            if path.suffix.lower() in OTHER_SUFFIXES and not path.name.startswith("._")]


def captioned(folder: Path, fallback: str = "") -> Iterator[tuple[Path, Prompt]]:
    """Image paths of a folder with their prompts; fallback where an image has no .txt beside it."""
    for path in images_in(folder):
        yield path, Prompt(caption(path, fallback))


def caption(path: Path, fallback: str = "") -> str:
    file = path.with_suffix(".txt")
    return read_caption(file) if is_file(file) else fallback


def read_caption(file: Path) -> str:
    """The text of a caption's file. ValueError names it where it is no text in UTF-8, or too long for a caption."""
    data = read_bytes(file) if file.stat().st_size <= LONGEST else b"\0"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without its mark is full of them
        raise ValueError(f"its caption {shown(file.name)} is not UTF-8 text")
    return text.strip()
