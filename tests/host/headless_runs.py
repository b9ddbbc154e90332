"""Runs of headless.py in processes of their own: how they are started, killed and read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import safetensors.torch
from posttrain.tools.host import PACK, comfyui_folder, free_port, prepare_base

LONGEST = 900  # seconds; a machine may have other work


class Headless:
    """A ComfyUI's folder, and commands that run workflows in it."""

    def __init__(self, base: Path):
        self.base = base
        prepare_base(base, [], PACK)

    def start(
        self,
        graph: dict | str,
        ranks: int = 1,
        restarts: int = 0,
        options: tuple = (),
        launcher: tuple = (),
        first: tuple = (),
        cpu: bool = True,
    ) -> subprocess.Popen:
        """launcher: options of torchrun, in the place of ``ranks`` on this machine alone; first: words before the workflow;
        cpu: whether cards are left alone."""
        file = self.base / "workflow.json"
        file.write_text(graph if isinstance(graph, str) else json.dumps(graph), encoding="utf-8")
        if ranks > 1:
            launcher = ("--nproc-per-node", str(ranks), "--max-restarts", str(restarts), "--master-port", str(free_port()))
        command = [
            sys.executable,
            *(("-m", "torch.distributed.run", *launcher) if launcher else ()),
            str(self.base / "custom_nodes" / PACK / "headless.py"),
            *first,
            str(file),
            "--comfyui",
            str(comfyui_folder()),
            *(("--cpu",) if cpu else ()),
            "--base-directory",
            str(self.base),
            *options,
        ]
        self.log = (self.base / "headless.log").open("w+")
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            cwd=self.base,
        )

    def run(self, graph: dict | str, ranks: int = 1, options: tuple = ()) -> int:
        return self.start(graph, ranks, options=options).wait(LONGEST)

    def text(self) -> str:
        return Path(self.log.name).read_text(encoding="utf-8", errors="replace")

    def iterations(self, run: str) -> int:
        file = self.base / "output" / "posttrain" / f"spine {run}" / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def lora(self, run: str) -> dict:
        return safetensors.torch.load_file(self.base / "models" / "loras" / "tests" / f"{run}.safetensors")


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if "RANK" in child.environ()]


def difference(first: dict, second: dict) -> float:
    assert first.keys() == second.keys()
    return max(float((first[key] - second[key]).abs().max()) for key in first)


def until(true, process: subprocess.Popen, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
