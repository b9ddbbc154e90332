"""Images from a folder on disk, read one at a time: sizes may differ, and folders may be large.

A picture's prompt is the .txt file of the same name.
"""
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .base.reward import Prompt
from .images import SUFFIXES


def images_in(folder: Path) -> list[Path]:
    """The images of a folder and of those in it, by name. Raises FileNotFoundError where there are none."""
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not found:
        raise FileNotFoundError(f"folder: {folder} {'holds no images' if folder.is_dir() else 'does not exist'} "
                                f"({', '.join(SUFFIXES)}).")
    return found


def captioned(folder: Path, fallback: str = "") -> Iterator[tuple[Path, Prompt]]:
    """Image paths of a folder with their prompts; fallback where an image has no .txt beside it."""
    for path in images_in(folder):
        yield path, Prompt(caption(path, fallback))


def caption(path: Path, fallback: str = "") -> str:
    file = path.with_suffix(".txt")
    return file.read_text("utf-8").strip() if file.is_file() else fallback
