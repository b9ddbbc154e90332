"""Checkpoints of a run: one safetensors file each, written whole or not at all."""
from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from ...rewards.base.files import sweep, written_whole
from ...rewards.base.words import shown

META, DIGEST = "posttrain", "sha256"
KEEP_LAST = 2
KEEP_TO = 4  # saves back to which all stay; from there on the gaps grow with the age
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
    """Written whole or not at all, with a digest of all that is in it. Raises SaveFailed with the reason in words."""
    path = folder / f"state_{iteration:06d}.safetensors"
    saved = {"iteration": iteration, "policy": json.loads(json.dumps(meta))}
    separate = _separate(tensors)
    text = {META: json.dumps(saved | {DIGEST: digest(separate, saved)})}
    try:
        with written_whole(path, own_folder=True) as beside:
            safetensors.torch.save_file(separate, beside, metadata=text)
    except (OSError, safetensors.SafetensorError) as error:
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
        told = saved.pop(DIGEST, None)  # older checkpoints have none
        if told is not None and told != digest(tensors, saved):
            raise ValueError("what is in it is not what was written: the disk or a copy has changed it")
        return int(saved["iteration"]), tensors, saved["policy"]
    except (OSError, safetensors.SafetensorError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, MemoryError,
            OverflowError) as error:
        raise BrokenCheckpoint(f"{path.name} cannot be read ({shown(str(error), 300)})") from error


def digest(tensors: dict[str, torch.Tensor], saved: dict) -> str:
    """SHA-256 of everything that a resume reads: names, types, shapes and bytes of the tensors, and the facts beside them."""
    found = hashlib.sha256(json.dumps(saved, sort_keys=True).encode())
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        found.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def sweep_old_saves(folder: Path) -> None:
    """Takes away what saves that were killed have left; earlier versions left it under the library's own names, too."""
    if folder.is_dir():
        sweep(folder, 0.0)
        for path in [*folder.glob("*.tmp"), *folder.glob(".tmp*")]:
            path.unlink(missing_ok=True)


def load_newest(folder: Path) -> tuple[tuple[int, dict, dict] | None, list[str]]:
    """The newest checkpoint that can be read, and a sentence on each newer one that could not: those are set aside."""
    sweep_old_saves(folder)
    said = []
    for _, path in reversed(list_checkpoints(folder)):
        try:
            return load_checkpoint(path), said
        except BrokenCheckpoint as error:
            path.replace(path.with_suffix(".damaged"))
            said.append(f"{error}; it was set aside, and the one before it is used")
    return None, said


def prune(folder: Path, save_every: int, kept: Collection[int] = ()) -> None:
    """Keeps the last ones, a series over the whole run that thins out with age, and those that a user has asked for."""
    saved = list_checkpoints(folder)
    series = thinned([iteration for iteration, _ in saved], save_every)
    for iteration, path in saved[:-KEEP_LAST]:
        if iteration not in series and iteration not in kept:
            path.unlink(missing_ok=True)


def thinned(iterations: Sequence[int], save_every: int) -> set[int]:
    """Those of ``iterations``, in order, that stay: of n saves some 2 log2(n). What is left out once is never missed later, as
    the gaps double where they grow."""
    stays: dict[tuple[int, int], int] = {}
    for iteration in iterations:
        age = (iterations[-1] - iteration) // save_every
        gap = save_every * (1 << max(0, (age // KEEP_TO).bit_length()))
        stays.setdefault((gap, iteration // gap), iteration)
    return set(stays.values())


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
