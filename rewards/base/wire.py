"""Values that ranks send to each other. ComfyUI calls a pack's modules by the folder in which it lies, which is another one on
another machine: a value of the pack's own classes is read there by what follows the folder."""

from __future__ import annotations

import io
import pickle
from typing import Any

ROOT = __name__.removesuffix(".rewards.base.wire")
Sent = tuple[str, bytes]


def packed(value: Any) -> Sent:
    """The sender's name of the pack, and the value."""
    return ROOT, pickle.dumps(value)


def unpacked(sent: Sent) -> Any:
    """What ``packed`` was given on another rank of the same training, which may do here all that this process may."""
    root, content = sent
    return _Reader(io.BytesIO(content), root).load()


class _Reader(pickle.Unpickler):
    def __init__(self, content: io.BytesIO, root: str):
        super().__init__(content)
        self._root = root

    def find_class(self, module: str, name: str) -> Any:
        inside = module == self._root or module.startswith(self._root + ".")
        return super().find_class(ROOT + module[len(self._root) :] if inside else module, name)
