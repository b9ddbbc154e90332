"""headless.py: a workflow without page or server, in one process and in several, undisturbed, killed and cancelled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import safetensors.torch
from posttrain.tests.host.spine_graph import spine
from posttrain.tools.host import PACK, comfyui_folder, free_port, prepare_base


class Headless:
    """A ComfyUI's folder, and commands that run workflows in it."""

    def __init__(self, base: Path):
        self.base = base
        prepare_base(base, [], PACK)

    def start(self, graph: dict | str, ranks: int = 1, restarts: int = 0, options: tuple = ()) -> subprocess.Popen:
        file = self.base / "workflow.json"
        file.write_text(graph if isinstance(graph, str) else json.dumps(graph), encoding="utf-8")
        launcher = (
            [sys.executable]
            if ranks == 1
            else [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nproc-per-node",
                str(ranks),
                "--max-restarts",
                str(restarts),
                "--master-port",
                str(free_port()),
            ]
        )
        command = [
            *launcher,
            str(self.base / "custom_nodes" / PACK / "headless.py"),
            str(file),
            "--comfyui",
            str(comfyui_folder()),
            "--cpu",
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
        return self.start(graph, ranks, options=options).wait(240)

    def text(self) -> str:
        return Path(self.log.name).read_text(encoding="utf-8", errors="replace")

    def iterations(self, run: str) -> int:
        file = self.base / "output" / "posttrain" / f"spine {run}" / "metrics.jsonl"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def lora(self, run: str) -> dict:
        return safetensors.torch.load_file(self.base / "models" / "loras" / "tests" / f"{run}.safetensors")


def difference(first: dict, second: dict) -> float:
    assert first.keys() == second.keys()
    return max(float((first[key] - second[key]).abs().max()) for key in first)


def until(true, process: subprocess.Popen, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Headless:
    """A run of three iterations in one process."""
    made = Headless(tmp_path_factory.mktemp("alone"))
    assert made.run(spine("a", 3)) == 0, made.text()[-3000:]
    return made


def test_a_workflow_runs_without_page_or_server(alone):
    text = alone.text()
    assert alone.iterations("a") == 3 and "spine a: 3 of 3, reward " in text
    assert "To see the GUI" not in text and alone.lora("a")


@pytest.mark.parametrize(
    "content, words",
    [
        ("{", "cannot be read as JSON"),
        ('{"nodes": [], "links": []}', "Export (API)"),
        ('{"1": {"class_type": "KSampler", "inputs": {}}}', "The workflow is wrong"),
    ],
)
def test_what_is_no_workflow_ends_in_words(alone, content, words):
    assert alone.run(content) == 2
    assert words in alone.text()


def test_one_process_has_nobody_to_share_weights_with(alone):
    assert alone.run("{}", options=("--share-weights",)) == 2
    assert "--share-weights: there is one process" in alone.text()


def test_two_processes_train_what_one_does_and_go_on_after_one_was_killed(alone, tmp_path):
    shared = Headless(tmp_path)
    process = shared.start(spine("a", 3, **{"6.when_run_exists": "start over", "6.save_every": 1}), ranks=2, restarts=1)
    until(lambda: shared.iterations("a") >= 1, process)
    workers = [child for child in psutil.Process(process.pid).children(recursive=True) if child.environ().get("RANK") == "1"]
    for worker in workers:
        worker.send_signal(signal.SIGKILL)
    assert workers and process.wait(240) == 0, shared.text()[-3000:]
    assert shared.iterations("a") == 3
    assert difference(alone.lora("a"), shared.lora("a")) < 1e-6
    assert [path.name for path in (tmp_path / "output" / "posttrain").iterdir()] == ["spine a"]  # it did not start over again


@pytest.mark.parametrize("options", [(), ("--share-weights",)], ids=["work shared", "weights shared"])
def test_a_cancel_reaches_all_and_the_same_command_goes_on(alone, tmp_path, options):
    shared = Headless(tmp_path)
    process = shared.start(spine("a", 3), ranks=2, options=options)
    until(lambda: shared.iterations("a") >= 1, process)
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) != 0
    assert len(started) >= 2 and not any(child.is_running() for child in started)
    assert shared.iterations("a") < 3 and not (tmp_path / "models" / "loras" / "tests").exists()
    assert shared.run(spine("a", 3)) == 0, shared.text()[-3000:]
    assert difference(alone.lora("a"), shared.lora("a")) < 1e-6
