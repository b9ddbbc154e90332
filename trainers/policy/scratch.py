"""Where large values lie: in folders of ComfyUI's temporary one, which it empties when it starts."""

from __future__ import annotations

import logging
import shutil
import uuid
import weakref
from collections.abc import Iterable
from pathlib import Path

import folder_paths
import torch


def scratch_folder(owner: object, name: str) -> Path:
    """A new folder for what ``owner`` does not keep in RAM; it is gone once nobody holds the owner any more."""
    folder = _new_folder(name)
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


def _new_folder(name: str) -> Path:
    folder = Path(folder_paths.get_temp_directory()) / "posttrain" / f"{name}-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    return folder


@torch.inference_mode(False)
@torch.no_grad()
def mapped(parts: Iterable[torch.Tensor], size: int, name: str) -> torch.Tensor:
    """The parts [b, ...], float32 and ``size`` bytes in all, one after the other as one tensor of a file that is mapped into
    memory: the system holds of it what is being looked at, and drops that where room is needed. Writing into it changes no file.
    In RAM where the disk has no room.
    """
    root = Path(folder_paths.get_temp_directory())
    root.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(root).free < 1.1 * size:
        logging.warning(
            "PostTrain: %s stay in memory: they take %.1f GB, and the disk of ComfyUI's temporary folder has no room",
            name,
            size / 2**30,
        )
        return torch.cat(list(parts))
    folder, count = _new_folder(name), 0
    try:
        with (folder / "values").open("wb") as file:
            for part in parts:
                file.write(part.contiguous().numpy().data)
                count, shape = count + len(part), part.shape[1:]
    except BaseException:  # a cancel, or what making them raises
        shutil.rmtree(folder, ignore_errors=True)
        raise
    found = torch.from_file(str(folder / "values"), shared=False, size=count * shape.numel()).view(count, *shape)
    weakref.finalize(found.untyped_storage(), shutil.rmtree, folder, ignore_errors=True)
    return found


def free_ram() -> int:
    """Bytes of RAM that can be had, what the system would swap for it included."""
    import psutil

    return psutil.virtual_memory().available + psutil.swap_memory().free
