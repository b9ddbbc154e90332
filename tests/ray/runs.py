"""Commands that run a small workflow under Ray: how they are started and read, and what is left of them."""

from __future__ import annotations

import re
import subprocess
import time

import psutil
from posttrain.tests.host.headless_runs import Headless
from posttrain.tests.host.spine_graph import spine

WORKER = re.compile(r"\(RayTrainWorker pid=(\d+)\S* .*PostTrain: rank (\d) of 2")


def small(**changes) -> dict:
    """Of two batches, so that two processes have something to share."""
    return spine("a", 3, **{"4.batch_size": 4} | changes)


def on_two(of: Headless, graph: dict | str, workers: int = 2) -> subprocess.Popen:
    return of.start(graph, first=("ray",), options=("--workers", str(workers)))


def processes(of: Headless) -> dict[str, int]:
    """The numbers, by rank, of those that have met last."""
    return {rank: int(number) for number, rank in WORKER.findall(of.text())}


def started_by(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(started: list[psutil.Process], seconds: float = 120) -> bool:
    """Whether all have ended. A process that waits to be read off by its parent has."""
    end = time.monotonic() + seconds
    while left := [each for each in started if runs(each)]:
        if time.monotonic() > end:
            print(*left, sep="\n")
            return False
        time.sleep(0.2)
    return True


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:  # it has ended between the two
        return False
