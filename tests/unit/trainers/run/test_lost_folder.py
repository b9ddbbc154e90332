"""A run's folder that is taken away in mid-run, and a start over that is cut short."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import torch
from posttrain.tests.unit.trainers.run.run_helpers import Counter, Heard, child, files, train
from posttrain.trainers.run import RunInUse, RunPlan, Session, TrainingStopped
from posttrain.trainers.run.aside import MOVING
from posttrain.trainers.run.folder import START_OVER, Run
from posttrain.trainers.run.metrics import read_metrics

TAKEN = {
    "deleted": lambda folder: shutil.rmtree(folder),
    "renamed": lambda folder: folder.rename(folder.with_name("dogs")),
    "replaced": lambda folder: (folder.rename(folder.with_name("dogs")), folder.mkdir(), (folder / "lock").write_text("{}")),
}


@pytest.mark.parametrize("how", TAKEN)
def test_a_folder_that_is_taken_away_stops_the_training_with_its_state_saved(tmp_path, how):
    heard = Heard()
    session = Session(tmp_path, RunPlan("cats", 20, save_every=4), Counter(), {"a": 1}, heard)
    with pytest.raises(TrainingStopped, match="deleted or renamed.*saved under the run's name again.*Queue again"), session:
        while not session.done:
            if session.iteration == 6:
                TAKEN[how](tmp_path / "cats")
            session.advance(session.policy.stepped())
    assert session.iteration == 7 and files(tmp_path) == [7] and "deleted or renamed" in heard.of("message")[0]["text"]
    again = train(tmp_path, 20)
    assert again.iteration == 20 and torch.equal(again.policy.value, train(tmp_path, 20, name="whole").policy.value)
    assert [point["iteration"] for point in read_metrics(tmp_path / "cats" / "metrics.jsonl")] == list(range(8, 21))
    if how != "deleted":
        assert files(tmp_path, "dogs") == [4]


def test_a_folder_that_cannot_be_made_again_keeps_the_state_in_memory(tmp_path):
    session = Session(tmp_path / "root", RunPlan("cats", 9, save_every=4), Counter(), {"a": 1}, Heard())
    with pytest.raises(TrainingStopped, match="gone and cannot be made again"), session:
        while not session.done:
            if session.iteration == 5:
                (tmp_path / "root").rename(tmp_path / "elsewhere")
                (tmp_path / "root").write_text("a file")
            session.advance(session.policy.stepped())
    (tmp_path / "root").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "root")
    heard = Heard()
    train(tmp_path / "root", 9, heard=heard)
    assert heard.of("start")[0]["iteration"] == 6


@pytest.mark.parametrize("parts", range(5))
def test_a_start_over_that_is_killed_between_two_parts_is_ended_later(tmp_path, parts):
    """The process dies after so many parts of the old run were moved."""
    train(tmp_path, 8)
    old = sorted(path.name for path in (tmp_path / "cats").iterdir() if path.name != "lock")
    other = child(
        tmp_path,
        f"""
        import os, signal
        from pathlib import Path
        from posttrain.trainers.run.folder import START_OVER
        moved, rename = 0, Path.rename
        def dies(self, target):
            global moved
            if moved == {parts}: os.kill(os.getpid(), signal.SIGKILL)
            moved += 1
            return rename(self, target)
        Path.rename = dies
        Run.open(root, "cats", {{}}, START_OVER)
        os.kill(os.getpid(), signal.SIGKILL)
    """,
    )
    other.communicate()
    assert other.returncode == -signal.SIGKILL
    run = Run.open(tmp_path, "cats", {"b": 2})
    run.close()
    backup = tmp_path / "cats_backup_1"
    assert sorted(path.name for path in backup.iterdir()) == old and files(tmp_path, "cats_backup_1") == [4, 8]
    assert not (tmp_path / "cats" / MOVING).exists() and files(tmp_path) == []
    assert run.config["settings"] == {"b": 2} and train(tmp_path, 8, settings={"b": 2}).iteration == 8
    assert train(tmp_path, 8, name="cats_backup_1").iteration == 8


@pytest.mark.parametrize("content", ["", "{", "[]", '{"to": 5}', '{"to": "../x"}', '{"to": "a/b"}', "5"])
def test_a_mark_that_cannot_be_read_moves_nothing(tmp_path, content):
    train(tmp_path, 4)
    (tmp_path / "cats" / MOVING).write_text(content)
    assert train(tmp_path, 6).iteration == 6 and sorted(path.name for path in tmp_path.iterdir()) == ["cats"]


def test_a_start_over_is_refused_while_the_run_is_trained(tmp_path):
    train(tmp_path, 4)
    run = Run.open(tmp_path, "cats", {"a": 1})
    with pytest.raises(RunInUse):
        Run.open(tmp_path, "cats", {"a": 1}, START_OVER)
    run.close()
    assert json.loads((tmp_path / "cats" / "config.json").read_text())["settings"] == {"a": 1}
