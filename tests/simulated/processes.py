"""Runs a worker as the processes of a training that know each other, and reads what each has found."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from posttrain.tools.host import free_port
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
LONGEST = 240  # seconds


def found_by(
    worker: str, folder: Path, counts: Iterable[int], *arguments: str
) -> dict[tuple[int, int], dict[str, torch.Tensor]]:
    """By (processes, rank): what the worker wrote to the path that it is given, with ".<rank>" behind."""
    found = {}
    for count in counts:
        place = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", str(HERE / worker), str(folder / str(count)), *arguments]
        logs = [(folder / f"{count}.{rank}.log").open("w+") for rank in range(count)]
        workers = [
            subprocess.Popen(
                command, env=os.environ | place | {"RANK": str(rank)}, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
            for rank, log in enumerate(logs)
        ]
        try:
            ends = [each.wait(LONGEST) for each in workers]
        finally:
            for each in workers:
                each.kill()
        for rank, end in enumerate(ends):
            logs[rank].seek(0)
            assert end == 0, logs[rank].read()[-3000:]
            found[count, rank] = load_file(folder / f"{count}.{rank}")
    return found
