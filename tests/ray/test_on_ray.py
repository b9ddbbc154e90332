"""The same run under Ray: what one process trains, after a process, the driver or the user has ended it; and nothing is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from posttrain.tests.host.headless_runs import Headless, difference, until
from posttrain.tests.host.spine_graph import spine

WORKER = re.compile(r"\(RayTrainWorker pid=(\d+)\S* .*PostTrain: rank (\d) of 2")


@pytest.fixture(scope="module", autouse=True)
def every_line(tmp_path_factory):
    """Ray leaves out lines that several processes write, and keeps its own notes at home, unless it is told."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_DEDUP_LOGS", "0")
        patch.setenv("RAY_COLOR_PREFIX", "0")
        yield


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Headless:
    """A run of three iterations in one process, without Ray."""
    made = Headless(tmp_path_factory.mktemp("alone"))
    assert made.run(spine("a", 3)) == 0, made.text()[-3000:]
    return made


@pytest.fixture
def shared(tmp_path) -> Headless:
    return Headless(tmp_path)


def on_two(of: Headless, graph: dict | str, workers: int = 2) -> subprocess.Popen:
    return of.start(graph, first=("ray",), options=("--workers", str(workers)))


def processes(of: Headless) -> dict[str, int]:
    """The numbers, by rank, of those that have met last."""
    return {rank: int(number) for number, rank in WORKER.findall(of.text())}


def started_by(process: subprocess.Popen) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(started: list[psutil.Process], seconds: float = 20) -> bool:
    """Whether all have ended. A process that waits to be read off by its parent has."""
    end = time.monotonic() + seconds
    while left := [each for each in started if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]:
        if time.monotonic() > end:
            print(*left, sep="\n")
            return False
        time.sleep(0.2)
    return True


def names_of_runs(of: Headless) -> list[str]:
    return [path.name for path in (of.base / "output" / "posttrain").iterdir()]


def test_a_process_that_is_killed_costs_nothing(alone, shared):
    process = on_two(shared, spine("a", 3, **{"6.when_run_exists": "start over", "6.save_every": 1}))
    until(lambda: shared.iterations("a") >= 1, process, 600)
    started = started_by(process)
    before = processes(shared)
    os.kill(before["1"], signal.SIGKILL)
    assert process.wait(480) == 0, shared.text()[-3000:]
    assert before.keys() == {"0", "1"} and processes(shared) != before  # others have met
    assert shared.iterations("a") == 3 and names_of_runs(shared) == ["spine a"]  # it did not start over again
    assert difference(alone.lora("a"), shared.lora("a")) < 1e-6
    assert re.search(r"spine a: 3 of 3, reward ", shared.text())
    assert len(started) > 4 and gone(started)


def test_a_cancel_saves_and_a_killed_driver_leaves_nothing_and_the_same_command_goes_on(alone, shared):
    process = on_two(shared, spine("a", 3))
    until(lambda: shared.iterations("a") >= 1, process, 600)
    started = started_by(process)
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 130, shared.text()[-3000:]
    assert "Cancelled: the training saves its state" in shared.text() and gone(started)
    assert 1 <= shared.iterations("a") < 3 and not (shared.base / "models" / "loras" / "tests").exists()

    process = on_two(shared, spine("a", 3, **{"6.save_every": 1}))
    until(lambda: len(processes(shared)) == 2, process, 600)
    started = started_by(process)
    process.kill()
    process.wait()
    assert len(started) > 4 and gone(started, 120)  # two small processes of Ray look for their parent for a minute

    assert on_two(shared, spine("a", 3)).wait(480) == 0, shared.text()[-3000:]
    assert difference(alone.lora("a"), shared.lora("a")) < 1e-6 and names_of_runs(shared) == ["spine a"]


def test_what_cannot_run_ends_in_words(shared):
    assert on_two(shared, "{}", workers=1000).wait(300) == 2
    assert "--workers 1000: Ray has " in shared.text()
    process = on_two(shared, '{"1": {"class_type": "KSampler", "inputs": {}}}')
    assert process.wait(300) == 2 and "The workflow is wrong" in shared.text(), shared.text()[-3000:]


def test_the_workflow_is_looked_for_before_ray_is_started(shared):
    process = shared.start("{}", first=("ray", str(Path("nowhere.json"))))
    assert process.wait(60) == 2 and "nowhere.json is not there" in shared.text() and "local Ray" not in shared.text()
