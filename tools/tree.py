"""The files of the working tree, in a git checkout as well as in an unpacked archive, and a copy of them elsewhere.

    python -m tools.tree FOLDER      copies them into FOLDER, which must not exist
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def files() -> tuple[str, ...]:
    """Every file of the repository, those not yet committed included, and nothing that .gitignore names."""
    names = listed_by_git() if (ROOT / ".git").exists() else None
    return tuple(name for name in (found_on_disk() if names is None else names) if (ROOT / name).is_file())


def listed_by_git() -> list[str] | None:
    """None where there is no git, or one that does not trust another user's folder."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                                capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return sorted(name for name in os.fsdecode(listed).split("\0") if name)


def found_on_disk() -> list[str]:
    """What git would list, in an archive that never was a repository: .gitignore's plain patterns are all we use."""
    ignored = [".git", *(line.strip("/") for line in (ROOT / ".gitignore").read_text(encoding="utf-8").split())]
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if not any(fnmatch(name, pattern) for pattern in ignored)
                      and not Path(folder, name, ".gitignore").exists()]  # so tools mark their caches
        found += [(Path(folder) / name).relative_to(ROOT).as_posix() for name in names
                  if not any(fnmatch(name, pattern) for pattern in ignored)]
    return sorted(found)


def copy(target: Path) -> None:
    """Copies the working tree, uncommitted changes included, into a folder that is made for it; without git's own."""
    target.mkdir(parents=True)
    for name in files():
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place)


if __name__ == "__main__":
    copy(Path(sys.argv[1]))
