"""What a file or folder may be called on every system, and which of those that are there a typed name means.

Windows keeps some names for itself, drops dots and spaces at an end, and takes no colon; Windows and macOS take ``Run`` and
``run`` for the same; a letter with an accent can be written as one character or as two, which macOS takes for the same and others
do not. A run that was trained on one system is opened on another, so all of this holds everywhere.
"""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .words import shown, unwritable

FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
# with spaces before the dot, too: Windows drops them
RESERVED = re.compile(r"(con|prn|aux|nul|com[\d¹²³]|lpt[\d¹²³]|conin\$|conout\$) *(\..*)?", re.IGNORECASE)
LONGEST_PATH = 259  # of Windows, unless it is told to take longer ones


def possible(name: str) -> bool:
    """Whether every system can give a file or folder this name, and would give it back as it is."""
    ends = name.strip(" ") == name and not name.endswith(".")
    return bool(name) and ends and not (FORBIDDEN.search(name) or unwritable(name) or RESERVED.fullmatch(name))


def same_name(one: str, other: str) -> bool:
    """Whether two names are the same text, however their accents are written."""
    return unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)


def collide(one: str, other: str) -> bool:
    """Whether some system takes two names for the same."""
    first, second = (unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()) for name in (one, other))
    return first == second


def found_beside(path: Path) -> Path | None:
    """What lies in the path's folder under a name that some system takes for the path's: itself, if it is there."""
    try:
        names = os.listdir(path.parent)
    except OSError:
        return None
    alike = sorted(name for name in names if collide(name, path.name))
    first = [name for name in alike if name == path.name] or [name for name in alike if same_name(name, path.name)] or alike
    return path.with_name(first[0]) if first else None


def meant(path: Path) -> Path:
    """The path as it is written on the disk where it is there with its accents written otherwise; else as it is."""
    found = found_beside(path)
    return found if found is not None and same_name(found.name, path.name) else path


def the_folder(path: Path, field: str) -> Path:
    """``meant``; ValueError where one lies there that differs in upper and lower case alone. field: the input with the name."""
    found = found_beside(path)
    if found is not None and not same_name(found.name, path.name):
        raise ValueError(
            f"{field}: there is '{shown(found.name)}' already, and on Windows and macOS '{shown(path.name)}' is the same folder; "
            "write it as it is there, or choose another name"
        )
    return meant(path)


def check_length(path: Path, field: str, write: Callable[[Path], None] | None = None) -> None:
    """ValueError where the system takes no path as long as this one, which need not be there. field: the input with the name;
    write: how to try it."""
    if len(str(path)) <= LONGEST_PATH:
        return
    try:
        (write or _tried)(path)
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ENOENT, errno.EINVAL):
            return  # whoever writes there says what it is
        raise ValueError(
            f"{field}: this system takes no path of {len(str(path))} characters ({shown(str(path), 400)}). Choose a shorter "
            "name, start ComfyUI with an --output-directory nearer to the drive, or switch long paths on in Windows"
        ) from error


def _tried(path: Path) -> None:
    """Writes the file, and takes it away again with all folders that were not there."""
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()
