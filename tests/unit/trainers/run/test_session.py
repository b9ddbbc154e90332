"""The run folder: resume, questions, names, metrics, and what is kept."""
from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field

import pytest
import torch
from posttrain.tests.unit.trainers.run.run_helpers import ROOT, Counter, Heard, files, train
from posttrain.trainers.run import Run, RunInUse, RunPlan, Session, SettingsChanged, TrainingStopped
from posttrain.trainers.run.checkpoints import load_newest, prune, save_checkpoint, thinned
from posttrain.trainers.run.metrics import MetricsFile, read_metrics
from posttrain.trainers.run.stopping import HELD_OUT, RULES, StopRule


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path):
    whole = train(tmp_path, 30, name="whole")
    for stop in (3, 11, 12, 26):
        with pytest.raises(RuntimeError, match="by the test"):
            train(tmp_path, 30, stop_at=stop)
    resumed = train(tmp_path, 30)
    assert torch.equal(resumed.policy.value, whole.policy.value)
    points = read_metrics(tmp_path / "cats" / "metrics.jsonl")
    assert [p["iteration"] for p in points] == list(range(1, 31))
    expected = [p["reward_mean"] for p in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert [p["reward_mean"] for p in points] == expected


def test_resumed_tensors_can_be_trained(tmp_path):
    train(tmp_path, 2)
    with torch.inference_mode():  # as in a node
        session = Session(tmp_path, RunPlan("cats", 2), Counter(), {"a": 1}, Heard())
        with session:
            pass
    assert not session.policy.value.is_inference()


def test_finished_run_does_nothing_and_says_so(tmp_path):
    first, heard = train(tmp_path, 5), Heard()
    again = train(tmp_path, 5, heard=heard)
    assert torch.equal(first.policy.value, again.policy.value)
    assert heard.of("iteration") == []
    assert "nothing to do" in heard.of("end")[0]["text"] and "raise 'iterations'" in again.summary


@pytest.mark.parametrize("error, status, word", [(KeyboardInterrupt, "cancelled", "was cancelled"),
                                                 (ConnectionResetError, "paused", "is paused after iteration 7 of 20"),
                                                 (ValueError, "error", "stopped with an error")])
def test_policy_so_far_is_kept_and_told(tmp_path, error, status, word):
    heard = Heard()
    with pytest.raises(error):
        train(tmp_path, 20, stop_at=7, heard=heard, error=error)
    end = heard.of("end")[0]
    assert end["status"] == status and end["iteration"] == 7
    assert word in end["text"] and str(tmp_path / "cats") in end["text"]
    assert files(tmp_path)[-1] == 7
    assert json.loads((tmp_path / "cats" / "config.json").read_text())["status"] == status


def test_failure_before_the_first_iteration_blocks_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        train(tmp_path, 5, stop_at=0, settings={"a": "typing error"})
    assert train(tmp_path, 5, settings={"a": "mended"}).iteration == 5


def test_changed_settings_are_a_question(tmp_path):
    train(tmp_path, 4, settings={"Rate.rate": 0.1, "Size.width": 8, "Gone.x": 1})
    with pytest.raises(SettingsChanged) as asked:
        train(tmp_path, 8, settings={"Rate.rate": 0.2, "Size.width": 8, "New.y": 2})
    for words in ("Rate.rate: 0.1 -> 0.2", "Gone.x: 1 -> (not there)", "New.y: (not there) -> 2", "4 iterations saved",
                  "'continue with changed settings'", "'start over'", "another run_name"):
        assert words in str(asked.value)
    assert "Size.width" not in str(asked.value)
    went_on = train(tmp_path, 8, settings={"Rate.rate": 0.2}, when_exists="continue with changed settings")
    assert went_on.iteration == 8
    config = json.loads((tmp_path / "cats" / "config.json").read_text())
    assert config["settings"] == {"Rate.rate": 0.2} and config["changes"][0]["iteration"] == 4
    assert train(tmp_path, 9, settings={"Rate.rate": 0.2}).iteration == 9


def test_a_setting_that_is_younger_than_the_run_stands_at_its_default(tmp_path):
    """Of a node that the run knows; a node that is new is a change, whatever its settings are."""
    train(tmp_path, 4, settings={"Rate.rate": 0.1})
    younger, defaults = {"Rate.rate": 0.1, "Rate.decay": 0}, {"Rate.decay": 0, "New.y": 2}
    with pytest.raises(SettingsChanged):
        Run.open(tmp_path, "cats", younger)
    for settings in (younger, {"Rate.rate": 0.1}):
        run = Run.open(tmp_path, "cats", settings, defaults=defaults)
        run.close()
        assert run.config["changes"] == []
    for changed, words in ((younger | {"Rate.decay": 5}, "Rate.decay: 0 -> 5"), (younger | {"New.y": 2}, r"New.y: \(not there\) -> 2")):
        with pytest.raises(SettingsChanged, match=words) as asked:
            Run.open(tmp_path, "cats", changed, defaults=defaults)
        assert len(asked.value.changes) == 1


def test_start_over_moves_the_old_run_aside_each_time(tmp_path):
    train(tmp_path, 4)
    for number in (1, 2):
        heard = Heard()
        session = train(tmp_path, 6, heard=heard, when_exists="start over")
        assert session.iteration == 6 and len(heard.of("iteration")) == 6
        assert f"cats_backup_{number}" in heard.of("message")[0]["text"]
    assert files(tmp_path, "cats_backup_1") == [4] and files(tmp_path, "cats_backup_2") == [4, 6]


def test_start_over_keeps_what_was_measured_on_the_base_model(tmp_path):
    train(tmp_path, 4)
    (tmp_path / "cats" / "calibration.json").write_text("{}")
    train(tmp_path, 6, when_exists="start over")
    assert (tmp_path / "cats" / "calibration.json").read_text() == "{}"
    assert (tmp_path / "cats_backup_1" / "calibration.json").is_file() and not (tmp_path / "cats_backup_2").exists()


@pytest.mark.parametrize("name", ["", "  ", "a/b", "a\\b", "..", ".", "../x", "/x", "C:x", "x.", " x", "nul",
                                  "COM1.txt", "a\nb", "a*b", "x" * 81, "ü" * 81])
def test_bad_names_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="run_name"):
        train(tmp_path, 1, name=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["my run", "Katzen-süß_1", "猫", "v1.2", "console"])
def test_good_names_are_taken(tmp_path, name):
    assert train(tmp_path, 1, name=name).iteration == 1


def test_unknown_choice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="when_run_exists"):
        Run.open(tmp_path, "x", {}, "whatever")


def test_second_run_at_once_is_refused_here(tmp_path):
    run = Run.open(tmp_path, "cats", {})
    with pytest.raises(RunInUse, match="in this ComfyUI"):
        Run.open(tmp_path, "cats", {})
    run.close()
    Run.open(tmp_path, "cats", {}).close()


def test_lost_config_is_a_question(tmp_path):
    train(tmp_path, 4)
    (tmp_path / "cats" / "config.json").write_text("{ not json")
    with pytest.raises(SettingsChanged, match="config.json: cannot be read"):
        train(tmp_path, 8)
    assert train(tmp_path, 8, when_exists="continue with changed settings").iteration == 8


def test_folder_that_vanished_is_a_new_run(tmp_path):
    train(tmp_path, 4)
    shutil.rmtree(tmp_path / "cats")
    heard = Heard()
    train(tmp_path, 4, heard=heard)
    assert len(heard.of("iteration")) == 4


def test_the_newest_and_a_series_that_thins_out_are_kept(tmp_path):
    train(tmp_path, 21, save_every=1)
    assert files(tmp_path) == [1, 8, 12, 14, 16, 18, 19, 20, 21]
    prune(tmp_path / "nowhere", 1)


@pytest.mark.parametrize("every", [1, 7, 20])
def test_few_checkpoints_are_kept_of_many_and_no_gap_is_wider_than_half_the_age(every):
    kept: list[int] = []
    for number in range(1, 1001):
        kept.append(every * number)
        series = thinned(kept, every)
        kept = [each for each in kept if each in series or each in kept[-2:]]
        ages = [(kept[-1] - each) // every for each in kept]
        assert len(kept) <= 3 + 2 * math.log2(number) and kept[-2:] == [every * max(1, number - 1), every * number][-len(kept):]
        assert all(older - newer <= max(1, older / 2) for older, newer in zip(ages[1:], ages[2:])), (number, kept)


def test_a_changed_cadence_thins_what_is_there_by_its_own_measure():
    assert thinned([20, 40, 60, 63, 66, 69], 3) >= {20, 40, 60, 63, 66, 69}
    assert thinned([3, 6, 9, 12, 15, 18, 38, 58], 20) == {3, 38, 58}


def test_metrics_hold_no_number_that_json_lacks(tmp_path):
    out = MetricsFile(tmp_path / "m.jsonl", 0)
    out.append({"iteration": 1, "loss": float("nan"), "kl": float("inf"), "reward": torch.tensor(2.0), "note": "x"})
    out.close()
    text = (tmp_path / "m.jsonl").read_text()
    assert json.loads(text) == {"iteration": 1, "loss": None, "kl": None, "reward": 2.0, "note": "x"}
    assert "NaN" not in text and "Infinity" not in text


@pytest.mark.parametrize("name", ["reward_mean", "kl", "accuracy", "updates"])
def test_a_run_whose_numbers_were_none_goes_on(tmp_path, name):
    lost = Session(tmp_path, RunPlan("cats", 1), Counter(), {}, Heard())
    with lost:
        lost.advance(lost.policy.stepped(**{name: math.nan}))
    rules = tuple(StopRule(when, 100.0) for when in RULES if when not in HELD_OUT)
    session = Session(tmp_path, RunPlan("cats", 2, stop=rules), Counter(), {}, Heard())
    with session:
        session.advance(session.policy.stepped(**{name: 0.5}))
    assert [line[name] for line in read_metrics(tmp_path / "cats" / "metrics.jsonl")] == [None, 0.5]


def test_damaged_line_in_the_middle_costs_only_itself(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"iteration": 1}\n\x00\x00garbage\n{"iteration": 3}\n{"iteration": 4}\n{"iteration": 5')
    assert [p["iteration"] for p in read_metrics(path, since=1)] == [3, 4]
    MetricsFile(path, 3).close()
    assert path.read_bytes().endswith(b'{"iteration": 3}\n')


def test_three_skipped_updates_stop_with_the_state_saved(tmp_path):
    session = Session(tmp_path, RunPlan("cats", 50), Counter(), {}, Heard())
    with pytest.raises(TrainingStopped, match="3 updates in a row"), session:
        for in_a_row in (0, 1, 2, 0, 1, 2, 3, 4):
            session.advance(session.policy.stepped(skipped_updates_in_a_row=in_a_row))
    assert session.iteration == 7 and files(tmp_path)[-1] == 7


def test_what_is_not_a_policy_is_refused(tmp_path):
    with pytest.raises(TypeError, match="policy: .* a dict"):
        Session(tmp_path, RunPlan("cats", 1), {}, {}, Heard())
    assert list(tmp_path.iterdir()) == []


def test_loop_inside_a_loop_leaves_no_folder(tmp_path):
    outer = Session(tmp_path, RunPlan("outer", 1), Counter(), {}, Heard())
    with outer:
        inner = Session(tmp_path, RunPlan("inner", 5), outer.policy, {}, Heard())
        with inner:
            while not inner.done:
                inner.advance(inner.policy.stepped())
        outer.advance(inner.policy)
    assert [p.name for p in tmp_path.iterdir()] == ["outer"]
    assert inner.iteration == 5


def test_time_left_is_that_of_the_recent_iterations(tmp_path):
    heard = Heard()
    session = Session(tmp_path, RunPlan("cats", 30), Counter(), {}, heard)
    with session:
        for _ in range(24):
            time.sleep(0.05 if session.iteration < 3 else 0.005)
            session.advance(session.policy)
    assert heard.of("iteration")[2]["seconds_left"] > 1.0
    assert heard.of("iteration")[-1]["seconds_left"] < 0.2


def test_state_comes_back_bit_for_bit(tmp_path):
    tensors = {"half": torch.randn(3, 5).half(), "view": torch.randn(9, 4)[2:5], "turned": torch.randn(3, 4).T,
               "none": torch.zeros(0, 3), "whole": torch.arange(4), "scalar": torch.tensor(0.1, dtype=torch.float64)}
    meta = {"rewards": {"a cat": [0.1, 1 / 3, 1e-300]}, "step": 3, "metrics": {"loss": float("inf")}}
    save_checkpoint(tmp_path, 3, tensors, meta)
    (iteration, loaded, loaded_meta), said = load_newest(tmp_path)
    assert (iteration, loaded_meta, said) == (3, meta, [])
    for key, value in tensors.items():
        assert torch.equal(loaded[key], value) and loaded[key].dtype == value.dtype


def test_samples_that_cannot_be_drawn_do_not_stop_the_training(tmp_path):
    heard = Heard()
    session = Session(tmp_path, RunPlan("cats", 2, samples_every=1), Counter(), {}, heard)
    with session:
        session.advance(session.policy, torch.zeros(3, 3))
        session.advance(session.policy, torch.rand(3, 8, 8, 3))
    assert "images: expected" in heard.of("message")[0]["text"]
    assert [d["file"][:16] for d in heard.of("samples")] == ["iteration_000002"]


def test_import_is_light():
    code = ("import sys, types, torch; pack = types.ModuleType('posttrain'); pack.__path__ = [sys.argv[1]]; "
            "sys.modules['posttrain'] = pack; import posttrain.trainers.run; print('PIL' in sys.modules)")
    assert subprocess.check_output([sys.executable, "-c", code, str(ROOT)], text=True).strip() == "False"


def test_a_run_ends_where_its_trainer_says_that_the_goal_is_reached(tmp_path):
    """The state is saved, queueing again does nothing, and changed settings go on."""
    def go(**plan):
        heard = Heard()
        with Session(tmp_path, RunPlan("goal", 9, **plan), Counter(), {"stop_at": len(plan)}, heard) as session:
            while not session.done:
                session.advance(session.policy.stepped(early_stopped=int(session.iteration + 1 == 4)))
        return session, heard

    session, heard = go()
    assert session.iteration == 4 and files(tmp_path, "goal") == [4]
    assert "ended early, after iteration 4 of 9" in session.summary and heard.of("end")[0]["status"] == "done"
    again, heard = go()
    assert again.iteration == 4 and not heard.of("iteration") and torch.equal(again.policy.value, session.policy.value)
    assert go(when_exists="continue with changed settings")[0].iteration == 9


def test_what_memory_did_not_suffice_for_is_said_once_and_not_again_after_a_resume(tmp_path):
    @dataclass(frozen=True)
    class Roomy(Counter):
        memory: dict = field(default_factory=lambda: {
            "room": {"at_once": 1, "words": "Memory ran out, so from now on one image at a time."}})

    heard = Heard()
    for iterations in (3, 5):
        start = Roomy() if iterations == 5 else Counter()
        with Session(tmp_path, RunPlan("tight", iterations), start, {"a": 1}, heard) as session:
            while not session.done:
                now = session.policy.stepped()
                session.advance(now if session.iteration == 0 else Roomy(now.value, now.metrics))
    said = [data for data in heard.of("message") if "Memory ran out" in data["text"]]
    assert len(said) == 1 and said[0]["level"] == "warning"
