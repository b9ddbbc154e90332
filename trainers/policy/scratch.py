"""Where large values lie: in folders of ComfyUI's temporary one, which it empties when it starts."""

from __future__ import annotations

import shutil
import uuid
import weakref
from pathlib import Path

import folder_paths


def scratch_folder(owner: object, name: str) -> Path:
    """A new folder for what ``owner`` does not keep in RAM; it is gone once nobody holds the owner any more."""
    folder = Path(folder_paths.get_temp_directory()) / "posttrain" / f"{name}-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder
