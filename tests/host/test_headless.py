"""headless.py: a workflow without page or server, in one process and in several, undisturbed, killed and cancelled."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from posttrain.tests.host.headless_runs import Headless, difference, until, workers_of
from posttrain.tests.host.spine_graph import MODEL, spine
from posttrain.tools.host import free_port


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


def test_what_a_launcher_has_not_set_is_named(alone, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert alone.run("{}") == 2
    assert "MASTER_ADDR, MASTER_PORT is not set" in alone.text() and "LOCAL_RANK" not in alone.text()  # --cpu has no cards


def test_two_processes_train_what_one_does_and_go_on_after_one_was_killed(alone, tmp_path):
    shared = Headless(tmp_path)
    process = shared.start(spine("a", 3, **{"6.when_run_exists": "start over", "6.save_every": 1}), ranks=2, restarts=1)
    until(lambda: shared.iterations("a") >= 1, process)
    workers = [child for child in workers_of(process) if child.environ()["RANK"] == "1"]
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


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_cancel_of_one_process_alone_is_a_cancel_for_all(tmp_path, rank):
    shared = Headless(tmp_path)
    process = shared.start(spine("a", 3), ranks=2)
    until(lambda: shared.iterations("a") >= 1, process)
    (one,) = [child for child in workers_of(process) if child.environ()["RANK"] == rank]
    one.send_signal(signal.SIGINT)
    assert process.wait(120) != 0
    text = shared.text()
    assert "Run 'spine a' was cancelled" in text and "stopped with an error" not in text, text[-3000:]


class Machines:
    """Two folders that share no disk, and an agent of torchrun for each, which find each other by rendezvous."""

    def __init__(self, folder: Path):
        self.each = [Headless(folder / name) for name in ("a", "b")]

    def start(self, graph: dict, restarts: int = 0) -> list[subprocess.Popen]:
        where = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "one training")
        launcher = ("--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", str(restarts), *where)
        return [each.start(graph, launcher=launcher) for each in self.each]


@pytest.fixture
def two(tmp_path) -> Machines:
    return Machines(tmp_path)


def test_what_one_of_two_machines_lacks_is_said_before_anything_runs(two):
    graph = spine("a", 3)
    graph["20"] = {"class_type": "LoraLoaderModelOnly", "inputs": {"model": MODEL, "lora_name": "style.safetensors"}}
    folder = two.each[0].base / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "style.safetensors").write_bytes(bytes(8))
    agents = two.start(graph)
    assert all(agent.wait(120) for agent in agents)
    said = "models/loras/style.safetensors is not there; rank "
    for each in two.each:  # both of them say it
        assert said in each.text() and "has it, 8 bytes" in each.text(), each.text()[-3000:]
        assert not each.iterations("a")


def test_two_machines_train_what_one_does_and_go_on_after_a_process_of_one_was_killed(alone, two):
    agents = two.start(spine("a", 3, **{"6.when_run_exists": "start over", "6.save_every": 1}), restarts=1)
    until(lambda: any(each.iterations("a") for each in two.each), agents[0])
    first = next(each for each in two.each if each.iterations("a"))
    (helper,) = workers_of(agents[1 - two.each.index(first)])
    assert helper.environ()["RANK"] == "1"
    helper.send_signal(signal.SIGKILL)
    assert [agent.wait(240) for agent in agents] == [0, 0], first.text()[-3000:]
    assert first.iterations("a") == 3 and difference(alone.lora("a"), first.lora("a")) < 1e-6
    assert [path.name for path in (first.base / "output" / "posttrain").iterdir()] == ["spine a"]  # it did not start over again
    other = next(each for each in two.each if each is not first)
    assert not (other.base / "output" / "posttrain").exists() and not (other.base / "models" / "loras" / "tests").exists()
