"""Published reward checkpoints: what they are called, how large they are, and how a missing one is explained."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

AUTO = "auto"
SUFFIXES = (".safetensors", ".sft", ".pt", ".pth", ".bin", ".ckpt", ".onnx")


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


def candidates(root: Path, folder: bool) -> list[str]:
    """Relative paths ("a/b.safetensors") of the model files under root, or of the folders with a config.json."""
    if not root.is_dir():
        return []
    found = root.rglob("config.json") if folder else (p for p in root.rglob("*") if p.suffix in SUFFIXES)
    paths = ((p.parent if folder else p).relative_to(root).as_posix() for p in found if p.is_file())
    return sorted(p for p in paths if p != ".")


def locate(published: Published, choice: str, roots: Mapping[str, Sequence[str]]) -> Path:
    """The path of what a node's menu chose ("auto" = the published name). roots: model folder key -> folders.

    Raises FileNotFoundError with name, size, source and where to put it, all in one message.
    """
    searched = [Path(root) for key in published.folders for root in roots.get(key, ())]
    for root in searched:
        for path in candidates(root, published.folder):
            if path == choice or choice == AUTO and any(fnmatch(path.lower(), p) for p in published.patterns):
                return root / path
    target = searched[0] / published.save_as if searched else Path("models/reward_models") / published.save_as
    asked = "" if choice == AUTO else f" ('{choice}')"
    raise FileNotFoundError(
        f"{published.title}: its model {'folder' if published.folder else 'file'}{asked} was not found. Download "
        f"{published.source} ({published.size}, licence {published.licence}) and save it as {target}. "
        f"Searched: {', '.join(str(s) for s in searched) or 'no model folder is known'}.")


def choices(folders: Sequence[str], folder: bool, roots: Mapping[str, Sequence[str]]) -> list[str]:
    """Menu entries: "auto" first (never an empty menu), then what is there."""
    there = [path for key in folders for root in roots.get(key, ()) for path in candidates(Path(root), folder)]
    return [AUTO, *dict.fromkeys(there)]
