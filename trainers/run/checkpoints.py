"""Checkpoints of a run: one safetensors file each, written whole or not at all."""
from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path

import safetensors
import safetensors.torch
import torch

META = "posttrain"
KEEP_LAST = 2
KEEP_EACH = 10  # of those that the cadence makes, each tenth stays for good
NAME = re.compile(r"state_(\d+)\.safetensors")


class SaveFailed(RuntimeError):
    """A checkpoint could not be written; the ones before it are as they were."""


class BrokenCheckpoint(ValueError):
    """A checkpoint cannot be read: cut short, or not one of ours."""


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(iteration, file) in order of iteration; a folder that is not there has none."""
    if not folder.is_dir():
        return []
    found = ((NAME.fullmatch(p.name), p) for p in folder.iterdir())
    return sorted((int(m.group(1)), p) for m, p in found if m)


def save_checkpoint(folder: Path, iteration: int, tensors: dict[str, torch.Tensor], meta: dict) -> Path:
    """Writes beside, flushes to the disk, then renames. Raises SaveFailed with the reason in words."""
    path = folder / f"state_{iteration:06d}.safetensors"
    beside = path.with_suffix(".tmp")
    text = {META: json.dumps({"iteration": iteration, "policy": meta})}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(_separate(tensors), beside, metadata=text)
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, safetensors.SafetensorError) as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        full = any(sign in str(error) for sign in ("No space left", "StorageFull", "code: 28", "Disk quota"))
        reason = "the disk is full; free some space" if full else f"{error}"
        raise SaveFailed(f"the state of iteration {iteration} could not be saved in {folder}: {reason}") from error
    return path


def load_checkpoint(path: Path) -> tuple[int, dict[str, torch.Tensor], dict]:
    """-> iteration, tensors, meta. Raises BrokenCheckpoint."""
    try:
        # a policy is trained: its tensors must not be inference tensors, though nodes run in inference mode
        with torch.inference_mode(False), safetensors.safe_open(path, framework="pt") as file:
            saved = json.loads((file.metadata() or {})[META])
            # copies: what safe_open hands out is the mapped file, which Windows then could not replace
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}
            return int(saved["iteration"]), tensors, saved["policy"]
    except (OSError, safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise BrokenCheckpoint(f"{path.name} cannot be read ({error})") from error


def load_newest(folder: Path) -> tuple[tuple[int, dict, dict] | None, list[str]]:
    """The newest checkpoint that can be read, and a sentence on each newer one that could not: those are set aside."""
    said = []
    for _, path in reversed(list_checkpoints(folder)):
        try:
            return load_checkpoint(path), said
        except BrokenCheckpoint as error:
            path.replace(path.with_suffix(".damaged"))
            said.append(f"{error}; it was set aside, and the one before it is used")
    return None, said


def prune(folder: Path, save_every: int) -> None:
    """Keeps the last ones, and each tenth of the cadence for good."""
    for iteration, path in list_checkpoints(folder)[:-KEEP_LAST]:
        if iteration % (save_every * KEEP_EACH):
            path.unlink(missing_ok=True)


def _separate(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """On the CPU, contiguous, and none sharing memory with another, as the file format wants it."""
    seen: set[int] = set()
    separate = {}
    for key, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        separate[key] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return separate
