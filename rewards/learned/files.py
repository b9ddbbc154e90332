"""Published reward checkpoints: what they are called, how large they are, and how a missing one is explained."""
from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..base.words import brief

AUTO = "auto"
SUFFIXES = (".safetensors", ".sft", ".pt", ".pth", ".bin", ".ckpt", ".onnx")  # the first ones are preferred


@dataclass(frozen=True)
class Published:
    """A file (or, folder=True, a folder with a config.json) that somebody published.

    patterns: accepted paths inside a model folder, lower case, "*" allowed. save_as: the name to suggest.
    source: owner/name and file on the model hub. size: of the download. folders: model folder keys, best first.
    """

    title: str
    patterns: tuple[str, ...]
    save_as: str
    source: str
    size: str
    licence: str
    folders: tuple[str, ...] = ("reward_models",)
    folder: bool = False
    __repr__ = brief


def candidates(root: Path, folder: bool) -> list[str]:
    """Relative paths ("a/b.safetensors") of the model files under root, or of the folders with a config.json."""
    found = []
    for at, _, files in os.walk(root, followlinks=True):  # as the host looks for models
        here = Path(at).relative_to(root)
        if folder:
            found += [here.as_posix()] if "config.json" in files and at != str(root) else []
        else:
            found += [(here / name).as_posix() for name in files if Path(name).suffix in SUFFIXES]
    return sorted(found)


def locate(published: Published, choice: str, roots: Mapping[str, Sequence[str]]) -> Path:
    """The path of what a node's menu chose ("auto" = the published name). roots: model folder key -> folders.

    Raises FileNotFoundError with name, size, source and where to put it, all in one message.
    """
    searched = [Path(root) for key in published.folders for root in roots.get(key, ())]
    for root in searched:
        for path in sorted(candidates(root, published.folder), key=preference):
            if path == choice or choice == AUTO and any(fnmatch(path.lower(), p) for p in published.patterns):
                return root / path
    target = searched[0] / published.save_as if searched else Path("models/reward_models") / published.save_as
    asked = "" if choice == AUTO else f" ('{choice}')"
    raise FileNotFoundError(
        f"{published.title}: its model {'folder' if published.folder else 'file'}{asked} was not found. Download "
        f"{published.source} ({published.size}, licence {published.licence}) and save it as {target}. "
        f"Searched: {', '.join(str(s) for s in searched) or 'no model folder is known'}.")


def preference(path: str) -> int:
    """Where several files would do: safetensors before pickles."""
    suffix = Path(path).suffix
    return SUFFIXES.index(suffix) if suffix in SUFFIXES else 0


def choices(folders: Sequence[str], folder: bool, roots: Mapping[str, Sequence[str]]) -> list[str]:
    """Menu entries: "auto" first (never an empty menu), then what is there."""
    there = [path for key in folders for root in roots.get(key, ()) for path in candidates(Path(root), folder)]
    return [AUTO, *dict.fromkeys(there)]


def read_json(file: Path) -> dict[str, Any]:
    """The table in an optional .json file of a model folder; {} where there is none. Raises ValueError that names a
    damaged one."""
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged or incomplete ({error}). Download it again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} is not a model's settings: it holds a {type(found).__name__}. Download it again.")
    return found
