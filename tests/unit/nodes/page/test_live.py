"""What the page is told of a run: events, and the run folder read back."""
from __future__ import annotations

import json
import os

import pytest
from posttrain.nodes.page import live, run_reader
from posttrain.nodes.page.run_reader import list_runs, read_run, run_folder, sample_path
from posttrain.trainers.run.thinning import thin


def nothing(run: str) -> dict:
    return {}


def make_run(root, name="first", points=3, status="done", **config):
    folder = root / name
    (folder / "samples").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"id": "abc", "status": status, "iterations": 10, **config}))
    lines = [json.dumps({"iteration": i + 1, "reward_mean": i / 10}) for i in range(points)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n" if lines else "")
    return folder


def test_a_run_is_read_back(tmp_path):
    folder = make_run(tmp_path)
    for name in ("iteration_000010.webp", "iteration_000001.webp", "iteration_000002.tmp", "notes.txt"):
        (folder / "samples" / name).write_bytes(b"x")
    run = read_run("first", "1", nothing, tmp_path)
    assert [p["iteration"] for p in run["points"]] == [2, 3]
    assert [s["file"] for s in run["samples"]] == ["iteration_000001.webp", "iteration_000010.webp"]
    assert (run["status"], run["iteration"], run["iterations"], run["reward"]) == ("done", 3, 10, pytest.approx(0.1))


def test_half_a_line_is_left_out(tmp_path):
    folder = make_run(tmp_path)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 4, "rewa')
    run = read_run("first", 0, nothing, tmp_path)
    assert [p["iteration"] for p in run["points"]] == [1, 2, 3] and run["reward"] == pytest.approx(0.1)


def test_a_run_without_points_or_samples(tmp_path):
    make_run(tmp_path, points=0)
    (tmp_path / "first" / "samples").rmdir()
    run = read_run("first", 0, nothing, tmp_path)
    assert (run["points"], run["samples"], run["iteration"]) == ([], [], 0)


def test_the_list_is_newest_first_and_holds_only_runs(tmp_path):
    make_run(tmp_path, "old")
    make_run(tmp_path, "new")
    (tmp_path / "not_a_run").mkdir()
    for file in (tmp_path / "old").iterdir():
        os.utime(file, (1, 1))
    assert [run["run"] for run in list_runs(nothing, tmp_path)] == ["new", "old"]
    assert list_runs(nothing, tmp_path / "missing") == []


def test_a_folder_that_has_not_changed_is_not_read_again(tmp_path, monkeypatch):
    """500 runs are asked for each time that a page looks; what changes in one of them is seen all the same."""
    for number in range(20):
        make_run(tmp_path, f"run {number}")
    list_runs(nothing, tmp_path)
    read = []
    for name in ("last_points", "read_config"):
        real = getattr(run_reader, name)
        monkeypatch.setattr(run_reader, name, lambda path, real=real: read.append(path) or real(path))
    assert len(list_runs(nothing, tmp_path)) == 20 and read == []
    with open(tmp_path / "run 7" / "metrics.jsonl", "a") as file:
        file.write('{"iteration": 99, "reward_mean": 0.5}\n')
    found = {run["run"]: run["iteration"] for run in list_runs(nothing, tmp_path)}
    assert found["run 7"] == 99 and found["run 6"] == 3
    assert {path.name for path in read} == {"run 7", "metrics.jsonl"}


@pytest.mark.parametrize("name", ["..", ".", "", "../first", "a/b", "a\\b", "C:", "a\0"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    make_run(tmp_path / "runs")
    make_run(tmp_path, "first")
    with pytest.raises(ValueError, match="not the name of a run"):
        run_folder(name, tmp_path / "runs")


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    make_run(tmp_path / "outside", "first")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "first").symlink_to(tmp_path / "outside" / "first")
    with pytest.raises(LookupError):
        run_folder("first", tmp_path / "runs")


@pytest.mark.parametrize("file", ["../config.json", "config.json", "iteration_1.webp/..", "iteration_000001.exe"])
def test_only_samples_are_handed_out(tmp_path, file):
    make_run(tmp_path)
    with pytest.raises(ValueError, match="not the name of a sample"):
        sample_path("first", file, tmp_path)


def test_thinning_keeps_every_spike_of_every_number():
    points = [{"iteration": i, "reward_mean": 0.5, "kl": 0.1} for i in range(1, 100_001)]
    points[40_123]["reward_mean"], points[40_124]["kl"], points[7]["kl"] = -3.0, 99.0, None
    shown, factor = thin(points, 2000)
    assert len(shown) <= 2000 and factor > 1
    assert min(p["reward_mean"] for p in shown) == -3.0
    assert max(p["kl"] for p in shown if p["kl"] is not None) == 99.0
    assert shown[0] == points[0] and shown[-1] == points[-1]
    iterations = [p["iteration"] for p in shown]
    assert iterations == sorted(set(iterations))


def test_short_runs_are_not_thinned():
    points = [{"iteration": i} for i in range(2000)]
    assert thin(points, 2000) == (points, 1)
    assert len(thin([*points, {"iteration": 2000}], 2000)[0]) <= 2000


def test_a_killed_run_is_not_called_running(tmp_path):
    folder = make_run(tmp_path, status="running")
    assert read_run("first", 0, nothing, tmp_path)["status"] == "stopped"
    (folder / "lock").write_text(json.dumps({"process": os.getpid()}))
    assert read_run("first", 0, nothing, tmp_path)["status"] == "stopped"
    (folder / "lock").write_text(json.dumps({"process": os.getppid()}))
    assert read_run("first", 0, nothing, tmp_path)["status"] == "elsewhere"


def test_events_are_remembered_for_a_page_opened_later(tmp_path):
    make_run(tmp_path, "remembered", status="running")
    live.emit("start", "remembered", "7", iteration=0, iterations=10)
    live.emit("iteration", "remembered", "7", iteration=5, iterations=10, seconds_left=12.5, metrics={})
    live.emit("message", "remembered", "7", text="The disk is full.", level="warning")
    live.emit("error", "remembered", "3", text="Score: no reward")
    run = read_run("remembered", 0, live.live_state, tmp_path)
    assert (run["status"], run["node"], run["iteration"], run["seconds_left"]) == ("running", "7", 5, 12.5)
    assert [m["level"] for m in run["messages"]] == ["warning", "error"]
    live.emit("end", "remembered", "7", status="cancelled", iteration=5, iterations=10)
    assert read_run("remembered", 0, live.live_state, tmp_path)["status"] == "cancelled"


def test_an_event_is_json_that_a_browser_reads():
    import torch

    event = live._plain({"metrics": {"kl": float("nan"), "loss": float("inf"), "reward": torch.tensor(0.5)}})
    assert json.loads(json.dumps(event, allow_nan=False)) == {"metrics": {"kl": None, "loss": None, "reward": 0.5}}
