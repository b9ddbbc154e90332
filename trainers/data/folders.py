"""Preference data in folders of images with captions beside them: win/ and lose/, like/ and dislike/, or 1_w and 1_l. A folder
source/ beside these holds what the captions say how to change."""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from ...rewards.base.files import is_file
from ...rewards.base.words import shown
from ...rewards.folders import is_image, other_images, read_caption
from .edits import source_of
from .images import checked_image
from .rows import BadRow, Dataset, Pair, Picture, Thumb, checked_pair, checked_prompt, collected, raised

PAIR_FOLDERS = (("win", "lose"), ("chosen", "rejected"))
THUMB_FOLDERS = (("like", "dislike"), ("up", "down"))
SOURCES = "source"
PAIR_FILE = re.compile(r"(.+)_([wl])$", re.IGNORECASE)
Found = Iterator[tuple[str, Callable[[], "Pair | Thumb"]]]


def read_folder(folder: Path, limit: int, prompt: str = "") -> Dataset:
    """Pairs or thumbs of a folder, in the order of their names; prompt: for images without a caption ("": left out).

    Layouts: win/x.png and lose/x.png; x_w.png and x_l.png; like/x.png and dislike/y.png. The caption of x is x.txt
    beside either image or in the folder itself. Of edits source/x.png is the picture that the caption says how to change.
    ValueError names the folder and what is wrong with it.
    """
    if not folder.is_dir():
        raise ValueError(f"folder: {shown(str(folder))} does not exist; put it into ComfyUI's input folder")
    below = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
    found = _found(folder, below, prompt)
    if SOURCES in below:
        found = chain(_unread(below[SOURCES]), _of_edits(found, _images(below[SOURCES])))
    return collected(f"folder {shown(str(folder))}", found, limit)


def _found(folder: Path, below: dict[str, Path], prompt: str) -> Found:
    """below: its folders, by their names in small letters."""
    for names, layout in [(n, _two_folders) for n in PAIR_FOLDERS] + [(n, _thumbs) for n in THUMB_FOLDERS]:
        missing = [name for name in names if name not in below]
        if not missing:
            sides = [below[name] for name in names]
            return chain(_unread(*sides), layout(folder, *sides, prompt))
        if len(missing) == 1:
            raise ValueError(f"folder: {shown(str(folder))} has no folder '{missing[0]}' beside "
                             f"'{(set(names) - set(missing)).pop()}'; both are needed")
    return chain(_unread(folder), _pair_files(folder, prompt))


def _of_edits(found: Found, sources: dict[str, Path]) -> Found:
    """The same rows, each with the picture of its name."""
    for name, make in found:
        yield name, partial(_of_edit, make, sources.get(name.rpartition("/")[2]))


def _of_edit(make: Callable[[], Pair | Thumb], source: Path | None) -> Pair | Thumb:
    row = make()
    if source is None:
        raise BadRow(f"there is no picture of that name in '{SOURCES}'")
    return replace(row, source=source_of(source))


def fingerprint(folder: Path) -> str:
    """Changes where a file of the folder was added, removed or written."""
    if not folder.is_dir():
        return "missing"
    facts = [(str(path), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file()]
    return f"{len(facts)} {hash(tuple(facts))}"


def _images(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in _files(folder)}


def _files(folder: Path) -> list[Path]:
    """Images, the later of two that are called alike last."""
    return [path for path in sorted(folder.iterdir()) if is_image(path)]


def _unread(*folders: Path) -> Found:
    """Images that would otherwise be missing without a word: of kinds that are not read here, and called like another one."""
    for folder in folders:
        for text in other_images(folder):
            name, why = text.split(": ", 1)
            yield f"{folder.name}/{name}", partial(raised, BadRow(why))
        kept = _images(folder)
        for path in _files(folder):
            if path != kept[path.stem]:
                why = f"{shown(kept[path.stem].name)} is used, which has the same name but for its kind"
                yield f"{folder.name}/{shown(path.name)}", partial(raised, BadRow(why))



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
    return checked_pair(name, text, *(checked_image(Picture(shown(f"{p.parent.name}/{p.name}"), p)) for p in (winner, loser)))


def _thumb(name: str, path: Path, good: bool, captions: list[Path], prompt: str) -> Thumb:
    text = _caption(captions, prompt)
    return Thumb(name, text, checked_image(Picture(shown(f"{path.parent.name}/{path.name}"), path)), good)


def _caption(files: list[Path], fallback: str) -> str:
    """The caption in one of these files. BadRow where it cannot be read, or where two of them say different things."""
    told: dict[str, str] = {}
    for file in files:
        if is_file(file):
            try:
                text = read_caption(file)
            except (OSError, ValueError) as error:
                raise BadRow(shown(str(error), 300)) from None
            if text:
                told.setdefault(text, f"{file.parent.name}/{file.name}")
    if len(told) > 1:
        first, second, *_ = told.values()
        raise BadRow(f"its captions {shown(first)} and {shown(second)} differ; keep one")
    return checked_prompt(next(iter(told), None), fallback)
