"""Runs renamed, pinned, noted on, thrown away and taken out: nothing is lost, and a run that trains is left alone."""

from __future__ import annotations

import csv
import io
import json

import pytest
from posttrain.nodes.page import live, shelf
from posttrain.nodes.page.run_reader import list_runs, read_run
from posttrain.tests.unit.nodes.page.test_live import make_run, nothing
from posttrain.trainers.run import Run


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


def test_a_renamed_run_is_the_same_under_its_new_name(tmp_path):
    before = content(make_run(tmp_path))
    live.emit("start", "first", "1", iteration=1, iterations=2)
    assert shelf.rename("first", "a better name", tmp_path) == "a better name"
    assert content(tmp_path / "a better name") == before and not (tmp_path / "first").exists()
    assert live.live_state("first") == {}
    assert shelf.rename("a better name", "a better name", tmp_path) == "a better name"


@pytest.mark.parametrize("name", ["second", "../x", "", "con", ".hidden", "a/b"])
def test_a_name_that_is_taken_or_none_is_refused(tmp_path, name):
    make_run(tmp_path)
    make_run(tmp_path, "second")
    with pytest.raises(ValueError, match="^name: "):
        shelf.rename("first", name, tmp_path)
    assert {run["run"] for run in list_runs(nothing, tmp_path)} == {"first", "second"}


def test_deleted_runs_lie_in_the_trash_beside_each_other(tmp_path):
    kept = []
    for _ in range(2):
        kept.append(content(make_run(tmp_path)))
        shelf.delete("first", tmp_path, delete="first")
    assert list_runs(nothing, tmp_path) == []
    assert [content(tmp_path / ".trash" / name) for name in ("first", "first 2")] == kept


def test_a_slip_deletes_nothing(tmp_path):
    make_run(tmp_path)
    for given in ("", "second"):
        with pytest.raises(ValueError, match="^delete: it has to be the run's name, 'first'"):
            shelf.delete("first", tmp_path, delete=given)
    for name in (".trash", "..", "."):
        with pytest.raises(ValueError, match="not the name of a run"):
            shelf.delete(name, tmp_path, delete=name)
    assert (tmp_path / "first" / "config.json").is_file()


def test_a_run_that_trains_is_neither_renamed_nor_deleted(tmp_path):
    run = Run.open(tmp_path, "first", {})
    try:
        for act in (lambda: shelf.rename("first", "x", tmp_path), lambda: shelf.delete("first", tmp_path, delete="first")):
            with pytest.raises(ValueError, match="is being trained at this moment"):
                act()
    finally:
        run.close()
    assert shelf.rename("first", "x", tmp_path) == "x"


def test_pin_and_note_are_kept_with_the_run_each_by_itself(tmp_path):
    make_run(tmp_path)
    assert list_runs(nothing, tmp_path)[0]["pinned"] is False
    shelf.mark("first", tmp_path, pinned=True)
    shelf.mark("first", tmp_path, note="the one with blue cats")
    (run,) = list_runs(nothing, tmp_path)
    assert run["pinned"] is True and run["note"] == "the one with blue cats"
    assert read_run(shelf.rename("first", "x", tmp_path), 0, nothing, tmp_path)["note"] == "the one with blue cats"
    with pytest.raises(ValueError, match="^note: 2001 characters are too many"):
        shelf.mark("x", tmp_path, note="x" * 2001)
    (tmp_path / "x" / "page.json").write_text("[]")
    assert list_runs(nothing, tmp_path)[0]["pinned"] is False


def test_the_table_holds_every_number_of_every_iteration(tmp_path):
    points = [{"iteration": 1, "reward_mean": 0.5}, {"iteration": 2, "reward_mean": None, "reward/a, b": 0.25}]
    rows = list(csv.DictReader(io.StringIO(shelf.as_csv(points))))
    assert rows == [{"iteration": "1", "reward_mean": "0.5", "reward/a, b": ""},
                    {"iteration": "2", "reward_mean": "", "reward/a, b": "0.25"}]  # fmt: skip


def test_the_workflow_is_handed_back_or_said_to_be_missing(tmp_path):
    folder = make_run(tmp_path)
    with pytest.raises(LookupError, match="the run 'first' holds no workflow"):
        shelf.workflow_of("first", tmp_path)
    (folder / "workflow.json").write_text(json.dumps({"nodes": []}))
    assert shelf.workflow_of("first", tmp_path) == {"nodes": []}
