"""Preference data in folders of images with captions beside them: win/ and lose/, like/ and dislike/, or 1_w and 1_l."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ...rewards.images import SUFFIXES
from .images import checked_image
from .rows import BadRow, Dataset, Pair, Picture, Thumb, checked_pair, checked_prompt, collected

PAIR_FOLDERS = (("win", "lose"), ("chosen", "rejected"))
THUMB_FOLDERS = (("like", "dislike"), ("up", "down"))
PAIR_FILE = re.compile(r"(.+)_([wl])$", re.IGNORECASE)
Found = Iterator[tuple[str, Callable[[], "Pair | Thumb"]]]


def read_folder(folder: Path, limit: int, prompt: str = "") -> Dataset:
    """Pairs or thumbs of a folder, in the order of their names; prompt: for images without a caption ("": left out).

    Layouts: win/x.png and lose/x.png; x_w.png and x_l.png; like/x.png and dislike/y.png. The caption of x is x.txt
    beside either image or in the folder itself. ValueError names the folder and what is wrong with it.
    """
    if not folder.is_dir():
        raise ValueError(f"folder: {folder} does not exist; put it into ComfyUI's input folder")
    below = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    for names, layout in [(n, _two_folders) for n in PAIR_FOLDERS] + [(n, _thumbs) for n in THUMB_FOLDERS]:
        missing = [name for name in names if name not in below]
        if not missing:
            return collected(f"folder {folder}", layout(folder, *(below[name] for name in names), prompt), limit)
        if len(missing) == 1:
            raise ValueError(f"folder: {folder} has no folder '{missing[0]}' beside "
                             f"'{(set(names) - set(missing)).pop()}'; both are needed")
    return collected(f"folder {folder}", _pair_files(folder, prompt), limit)


def fingerprint(folder: Path) -> str:
    """Changes where a file of the folder was added, removed or written."""
    if not folder.is_dir():
        return "missing"
    facts = [(str(path), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file()]
    return f"{len(facts)} {hash(tuple(facts))}"


def _images(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and path.is_file()}


def _two_folders(folder: Path, win: Path, lose: Path, prompt: str) -> Found:
    winners, losers = _images(win), _images(lose)
    for stem in sorted(winners.keys() | losers.keys()):
        captions = [where / f"{stem}.txt" for where in (win, lose, folder)]
        yield stem, partial(_pair, stem, winners.get(stem), losers.get(stem), captions, prompt, (win.name, lose.name))


def _pair_files(folder: Path, prompt: str) -> Found:
    found: dict[str, dict[str, Path]] = {}
    for stem, path in _images(folder).items():
        if match := PAIR_FILE.match(stem):
            found.setdefault(match[1], {})[match[2].lower()] = path
    for stem, sides in found.items():
        captions = [folder / f"{stem}{end}.txt" for end in ("", "_w", "_l")]
        yield stem, partial(_pair, stem, sides.get("w"), sides.get("l"), captions, prompt, ("_w", "_l"))


def _thumbs(folder: Path, like: Path, dislike: Path, prompt: str) -> Found:
    for where, good in ((like, True), (dislike, False)):
        for stem, path in _images(where).items():
            name, captions = f"{where.name}/{stem}", [where / f"{stem}.txt", folder / f"{stem}.txt"]
            yield name, partial(_thumb, name, path, good, captions, prompt)


def _pair(name: str, winner: Path | None, loser: Path | None, captions: list[Path], prompt: str,
          words: tuple[str, str]) -> Pair:
    for path, word in zip((winner, loser), words):
        if path is None:
            raise BadRow(f"there is no image of that name for '{word}'")
    text = _caption(captions, prompt)
    return checked_pair(name, text, *(checked_image(Picture(f"{p.parent.name}/{p.name}", p)) for p in (winner, loser)))


def _thumb(name: str, path: Path, good: bool, captions: list[Path], prompt: str) -> Thumb:
    text = _caption(captions, prompt)
    return Thumb(name, text, checked_image(Picture(f"{path.parent.name}/{path.name}", path)), good)


def _caption(files: list[Path], fallback: str) -> str:
    for file in files:
        if file.is_file():
            try:
                return checked_prompt(file.read_text(encoding="utf-8-sig"), fallback)
            except UnicodeDecodeError:
                raise BadRow(f"its caption {file.name} is not UTF-8 text") from None
    return checked_prompt(None, fallback)
