"""What must be the same on every machine that shares a training: the workflow, the files that it names, and its nodes.

Each rank says what it has, and all compare that with the first one's before anything runs.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..rewards.base import ranks
from ..rewards.base.words import shown
from .access import LONGEST, located
from .sampling.computers import files_of

WORKFLOW, PACK, COMFYUI = "the workflow", "this pack", "ComfyUI"
SOURCES = ("nodes", "trainers", "rewards", "toy")
MOST = 20  # lines of differences; the first ones say enough
Found = dict[str, str]  # what -> its size, or what else tells it from another one


def fault(prompt: dict, own: str = "") -> str:
    """Why a workflow cannot be begun, "" where it can. own: what is wrong with its file on this rank."""
    if ranks.count() == 1:
        return own
    here: Found = {}
    try:
        here = {} if own else what_is_here(prompt)
    except Exception as error:  # the others wait for an answer
        own = f"{type(error).__name__}: {shown(str(error), 200)}"
    met = ranks.met("what each machine has", (socket.gethostname(), own, here))
    if own and {words for _, words, _ in met} == {own}:
        return own
    faults = [f"rank {rank} ({host}): {words}" for rank, (host, words, _) in enumerate(met) if words]
    faults = faults or differences([(host, found) for host, _, found in met])
    if not faults:
        return ""
    return "\n  ".join(["The machines differ, so nothing was begun. Make them the same, then start again:", *faults[:MOST]])


def differences(met: list[tuple[str, Found]]) -> list[str]:
    """A line for each thing that a rank has otherwise than the first rank. met: host and what is there, by rank."""
    names = list(dict.fromkeys(name for _, found in met for name in found))
    lines = []
    for name in names:
        first = next(rank for rank, (_, found) in enumerate(met) if name in found)
        told = f"rank {first} ({met[first][0]})"
        for rank, (host, found) in enumerate(met):
            if name not in found:
                lines.append(f"rank {rank} ({host}): {name} is not there; {told} has it, {met[first][1][name]}")
            elif found[name] != met[first][1][name]:
                lines.append(f"rank {rank} ({host}): {name} is another one, {found[name]}; {told} has {met[first][1][name]}")
    return lines


def what_is_here(prompt: dict) -> Found:
    """Of this machine. What is nowhere the workflow's validation names."""
    found = {WORKFLOW: digest([json.dumps(prompt, sort_keys=True).encode()]), COMFYUI: comfyui(), PACK: pack()}
    prompt = {name: {"inputs": {}, **node} for name, node in prompt.items()}
    for name, places in files_of(prompt).items():
        found |= {f"models/{place}/{shown(name)}": f"{size:,} bytes" for place, size in places.items()}
    for kind in sorted({node["class_type"] for node in prompt.values()}):
        found |= {f"node {shown(kind)}": of for of in sources_of(kind)}
    return found | {f"input {shown(name)}": f"{size:,} bytes" for name, size in inputs(prompt)}


def model_sizes(prompt: dict) -> list[int]:
    """Bytes of each model file that widgets name; one that lies in several folders counts once."""
    return [
        max(places.values()) for places in files_of({name: {"inputs": {}, **node} for name, node in prompt.items()}).values()
    ]


def sources_of(kind: str) -> Iterator[str]:
    """The file of a node's class with its bytes; nothing where the node is not there."""
    import nodes

    if kind in nodes.NODE_CLASS_MAPPINGS:
        try:
            file = inspect.getfile(nodes.NODE_CLASS_MAPPINGS[kind])
            yield f"{os.path.basename(file)} with {os.path.getsize(file):,} bytes"
        except (TypeError, OSError):  # made while its pack was read
            yield "without a file"


def inputs(prompt: dict) -> Iterator[tuple[str, int]]:
    """Files and folders that widgets name and that workflows may read, with their bytes."""
    for node in prompt.values():
        for widget, value in node["inputs"].items():
            names_one = isinstance(value, str) and 0 < len(value) <= LONGEST and ("." in value or "folder" in widget)
            if names_one and (size := bytes_of(value)) is not None:
                yield value, size


def bytes_of(name: str) -> int | None:
    """Of a file, or of all in a folder; None where there is neither, or no workflow may read it."""
    try:
        path = located(name.removesuffix(" [input]"))
    except ValueError:
        return None
    if os.path.isdir(path):
        return sum(os.path.getsize(each) for each in path.rglob("*") if each.is_file())
    return os.path.getsize(path) if os.path.isfile(path) else None


def comfyui() -> str:
    from comfyui_version import __version__

    return __version__


def pack() -> str:
    """Of the code that trains."""
    root = Path(__file__).resolve().parents[1]
    return digest(path.read_bytes() for room in SOURCES for path in sorted((root / room).rglob("*.py")))


def digest(parts: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.hexdigest()[:12]
