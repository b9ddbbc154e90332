"""Going back: a run goes on from an earlier checkpoint, and what came after it is kept as a run of its own."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from posttrain.tests.unit.trainers.run.run_helpers import Counter, Heard, files, train
from posttrain.trainers.run import RunPlan, SettingsChanged, aside, run_state
from posttrain.trainers.run import folder as run_folder
from posttrain.trainers.run.checkpoints import SaveFailed, list_checkpoints, save_checkpoint
from posttrain.trainers.run.folder import CONTINUE_CHANGED, START_OVER, Run
from posttrain.trainers.run.journal import write_entry
from posttrain.trainers.run.metrics import read_metrics

OLD = "cats_backup_1"


def lines(root, name="cats"):
    return [point["iteration"] for point in read_metrics(root / name / "metrics.jsonl")]


def config(root, name="cats"):
    return json.loads((root / name / "config.json").read_text())


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


@pytest.fixture
def collapsed(tmp_path):
    """A run of 6 iterations with a checkpoint of each, samples and a measurement."""
    train(tmp_path, 6, save_every=1)
    samples = tmp_path / "cats" / "samples"
    samples.mkdir()
    for name in ("iteration_000002.webp", "iteration_000003.webp", "held_out_000000.webp", "held_out_000006.webp", "mine.webp"):
        (samples / name).write_bytes(name.encode())
    write_entry(tmp_path / "cats", 2, "of its beginning")
    write_entry(tmp_path / "cats", 6, "of the old run")
    return tmp_path


@pytest.mark.parametrize("links", [True, False])
def test_the_old_run_is_kept_whole_and_the_new_one_begins_where_it_was_asked_to(collapsed, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("this disk has none")))
    before, heard = everything(collapsed / "cats"), Heard()
    run = Run.open(collapsed, "cats", {"a": 1}, continue_from=3)
    iteration, tensors, _ = run.load()
    run.close()
    value = Counter().value
    for _ in range(3):
        value = 3.7 * value * (1 - value)
    assert iteration == 3 and torch.equal(tensors["value"], value)
    assert files(collapsed) == [1, 2, 3] and lines(collapsed) == [1, 2, 3]
    assert {path.name for path in (collapsed / "cats" / "samples").iterdir()} == {
        "iteration_000002.webp", "iteration_000003.webp", "held_out_000000.webp", "mine.webp"}  # fmt: skip
    assert everything(collapsed / OLD) == before
    assert train(collapsed, 8, name=OLD, heard=heard).iteration == 8 and len(heard.of("iteration")) == 2
    assert files(collapsed) == [1, 2, 3] and lines(collapsed) == [1, 2, 3], "the old run wrote into the new one"


def test_it_goes_back_once_and_then_goes_on(collapsed):
    heard = Heard()
    with pytest.raises(RuntimeError):
        train(collapsed, 9, stop_at=5, heard=heard, continue_from=3)
    assert "Went back to iteration 3" in heard.of("message")[0]["text"] and OLD in heard.of("message")[0]["text"]
    assert heard.of("start")[0]["iteration"] == 3
    for _ in range(2):
        session = train(collapsed, 9, continue_from=3)
    assert session.iteration == 9 and lines(collapsed) == list(range(1, 10))
    assert sorted(path.name for path in collapsed.iterdir()) == ["cats", OLD]
    # said in iteration 6 of the old run, which is none of this one's any more
    journal = (collapsed / "cats" / "history.jsonl", collapsed / OLD / "history.jsonl")
    assert ["of the old run" in path.read_text() for path in journal] == [False, True]
    assert all("of its beginning" in path.read_text() for path in journal) and "Went back" in journal[0].read_text()
    assert config(collapsed)["branches"][0] | {"time": ""} == {"iteration": 3, "kept_as": OLD, "time": ""}


def test_other_settings_go_back_once_more_and_0_forgets_it(collapsed):
    again = {"settings": {"a": 2}, "when_exists": CONTINUE_CHANGED, "save_every": 1}
    train(collapsed, 6, continue_from=3, save_every=1)
    train(collapsed, 6, continue_from=3, **again)
    assert [(each["iteration"], each["kept_as"]) for each in config(collapsed)["branches"]] == [(3, OLD), (3, "cats_backup_2")]
    assert config(collapsed)["changes"] == [{"iteration": 3, "changed": {"a": [1, 2]}}]
    train(collapsed, 6, continue_from=3, **again)
    train(collapsed, 6, **again)
    assert not (collapsed / "cats_backup_3").exists()
    train(collapsed, 6, continue_from=3, **again)
    assert (collapsed / "cats_backup_3").exists()


def test_changes_of_settings_after_it_are_taken_back_with_it(tmp_path):
    changed = {"when_exists": CONTINUE_CHANGED, "save_every": 1}
    train(tmp_path, 3, save_every=1)
    train(tmp_path, 5, settings={"b": 1}, **changed)
    train(tmp_path, 7, settings={"b": 2}, **changed)
    with pytest.raises(SettingsChanged, match=r"4 iterations saved") as asked:
        train(tmp_path, 7, settings={"b": 2}, continue_from=4)
    assert asked.value.changes == {"b": (1, 2)}
    assert not (tmp_path / OLD).exists() and files(tmp_path)[-1] == 7, "a question was asked, and the run was changed"
    assert train(tmp_path, 4, settings={"b": 1}, continue_from=4).iteration == 4
    assert config(tmp_path)["settings"] == {"b": 1} and [each["iteration"] for each in config(tmp_path)["changes"]] == [3]
    assert train(tmp_path, 3, continue_from=2).iteration == 3
    assert config(tmp_path)["settings"] == {"a": 1} and config(tmp_path)["changes"] == []
    assert len(config(tmp_path, OLD)["changes"]) == 2


@pytest.mark.parametrize("iteration, words", [(5, "has no checkpoint of iteration 5.*those of 1, 2, 3, 4, 6;"), (99, "of 99|iteration 99"),
                                              (4, "4 is damaged.*those of 1, 2, 3, 6;")])  # fmt: skip
def test_an_iteration_without_a_whole_checkpoint_is_refused_with_those_that_there_are(collapsed, iteration, words):
    folder = dict(list_checkpoints(collapsed / "cats" / "checkpoints"))
    folder[5].unlink()
    folder[4].write_bytes(folder[4].read_bytes()[:-3] + b"xyz")
    before = everything(collapsed / "cats")
    with pytest.raises(ValueError, match=f"^continue_from: .*{words}"):
        train(collapsed, 9, continue_from=iteration)
    assert everything(collapsed / "cats") == before and not (collapsed / OLD).exists()


def test_a_run_that_is_new_or_starts_over_has_nothing_to_go_back_to(tmp_path):
    with pytest.raises(ValueError, match="^continue_from: .*there is none yet"):
        train(tmp_path, 2, continue_from=1)
    with pytest.raises(ValueError, match="^continue_from: .*start over"):
        RunPlan("cats", 2, START_OVER, continue_from=1)


def test_the_newest_one_is_gone_on_from_without_a_copy(collapsed):
    assert train(collapsed, 8, continue_from=6).iteration == 8
    assert train(collapsed, 9, continue_from=6).iteration == 9 and not (collapsed / OLD).exists()


def test_the_best_one_on_held_out_prompts_can_be_gone_back_to(collapsed):
    best = collapsed / "cats" / "best"
    save_checkpoint(best, 4, *Counter(torch.tensor([0.25], dtype=torch.float64)).state())
    (collapsed / "cats" / "checkpoints" / "state_000004.safetensors").unlink()
    session = train(collapsed, 4, continue_from=4)
    assert session.iteration == 4 and float(session.policy.value) == 0.25 and files(collapsed) == [1, 2, 3, 4]
    assert [each for each, _ in list_checkpoints(best)] == [4]


def test_a_state_that_no_disk_took_goes_with_the_old_run(collapsed, monkeypatch):
    def full(*_):
        raise SaveFailed("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "save_checkpoint", full)
        with pytest.raises(SaveFailed):
            train(collapsed, 8)
    assert train(collapsed, 3, continue_from=3).iteration == 3
    heard = Heard()
    train(collapsed, 9, name=OLD, heard=heard)
    assert heard.of("start")[0]["iteration"] == 8


def test_a_cache_that_knows_the_old_run_does_not_answer_for_the_new_one(collapsed):
    before = run_state(collapsed, "cats")
    train(collapsed, 6, continue_from=3)
    assert run_state(collapsed, "cats") != before == run_state(collapsed, OLD)


@pytest.mark.parametrize("mark", ['{"to": "cats_backup_1"}', '{"to": "../x", "iteration": 3}', '{"to": "cats_backup_1", "iteration": 77}',
                                  '{"to": "cats_backup_1", "iteration": []}', "{", "[]"])  # fmt: skip
def test_a_mark_that_makes_no_sense_does_nothing(collapsed, mark):
    (collapsed / "cats" / aside.GOING_BACK).write_text(mark)
    assert train(collapsed, 7).iteration == 7 and [path.name for path in collapsed.iterdir()] == ["cats"]


def test_a_disk_that_is_full_in_the_middle_loses_nothing(collapsed, monkeypatch):
    before, copy = everything(collapsed / "cats"), shutil.copy2

    def full(path, beside):
        if path.name == "metrics.jsonl":
            raise OSError(28, "No space left on device")
        return copy(path, beside)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy2", full)
        with pytest.raises(RuntimeError, match="No space left"):
            train(collapsed, 9, continue_from=3)
    assert before.items() <= everything(collapsed / "cats").items()
    assert train(collapsed, 6, continue_from=3).iteration == 6
    assert everything(collapsed / OLD) == before


def test_a_long_name_is_moved_and_divided_as_well(tmp_path):
    name = "x" * 80
    train(tmp_path, 4, save_every=1, name=name)
    (tmp_path / name / aside.MOVING).write_text(json.dumps({"to": f"{name}_backup_1"}))
    heard = Heard()
    train(tmp_path, 4, name=name, heard=heard)
    assert "had been cut short" in heard.of("message")[0]["text"] and files(tmp_path, f"{name}_backup_1")
