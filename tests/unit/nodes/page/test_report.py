"""What a run came to: numbers from its folder as they are there, and words that say no more than they do."""

from __future__ import annotations

import json
import math

import pytest
from posttrain.nodes.page.report import (
    REPORT,
    as_text,
    blind_words,
    comparisons,
    leave_report,
    note_blind,
    report_of,
    write_report,
)
from posttrain.tests.unit.trainers.run.test_held_out import Measured, Moving, run_of


def folder_with(tmp_path, points: list[dict], **held_out):
    folder = tmp_path / "cats"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"status": "done"}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    if held_out:
        (folder / "held_out.json").write_text(json.dumps(held_out))
    return folder


def measured(gain: float, error: float, iteration: int = 9) -> dict:
    return {
        "iteration": iteration,
        "held_out_reward": 0.5 + gain,
        "held_out_base": 0.5,
        "held_out_gain": gain,
        "held_out_error": error,
    }


@pytest.mark.parametrize(
    "gain, error, verdict",
    [(0.2, 0.1, "better"), (0.19, 0.1, "open"), (-0.2, 0.1, "worse"), (0.2, math.nan, "open"), (0.0, 0.0, "open")],
)
def test_a_gain_is_called_one_where_its_interval_leaves_nothing_out(tmp_path, gain, error, verdict):
    found = report_of(folder_with(tmp_path, [measured(gain, error)], base=[0.5] * 6, best={"iteration": 4, "mean": 0.9}))[
        "held_out"
    ]
    assert found["verdict"] == verdict and found["images"] == 6 and found["best"] == {"iteration": 4, "mean": 0.9}
    if math.isfinite(error):
        assert (found["low"], found["high"]) == pytest.approx((gain - 1.96 * error, gain + 1.96 * error), abs=1e-4)
    else:
        assert found["low"] is None and "95 % interval unknown" in as_text(report_of(tmp_path / "cats"))


def test_rewards_and_variety_are_means_of_the_first_and_the_last_iterations(tmp_path):
    points = [
        {"iteration": i, "reward_mean": i / 10, "reward/sharp": 1.0 - i, "picture_variety": None if i % 2 else 0.5}
        for i in range(1, 21)
    ]
    found = report_of(folder_with(tmp_path, points))
    assert found["rewards"][0] == {"name": "reward_mean", "before": pytest.approx(0.3), "after": pytest.approx(1.8)}
    assert found["rewards"][1] == {"name": "reward/sharp", "before": -2.0, "after": -17.0}
    assert found["diversity"] == {"before": 0.5, "after": 0.5} and found["held_out"] is None and found["iteration"] == 20
    text = as_text(found)
    assert "| reward_mean | 0.3 | 1.8 |" in text and "Held-out" not in text and "blind" not in text


def test_the_first_and_the_last_do_not_overlap_and_one_alone_is_no_change(tmp_path):
    points = [{"iteration": i, "reward_mean": float(i)} for i in (1, 2, 3)]
    assert report_of(folder_with(tmp_path, points))["rewards"] == [{"name": "reward_mean", "before": 1.0, "after": 3.0}]
    assert report_of(tmp_path / "nowhere")["rewards"] == []


def test_the_newest_result_of_a_comparison_counts_and_half_a_line_costs_nothing(tmp_path):
    folder = folder_with(tmp_path, [])
    before = {"run": "cats", "iteration": 0}
    note_blind(folder, 9, before, 1, 1, 0)
    note_blind(folder, 9, {"run": "dogs", "iteration": 4}, 2, 12, 1)
    with open(folder / "blind.jsonl", "a") as file:
        file.write('{"iteration": 9, "against": {}}\n[]\n{"half')
    note_blind(folder, 9, before, 12, 2, 4)
    first, second = report_of(folder)["blind"]
    assert (first["wins"], first["losses"], first["ties"], first["verdict"]) == (12, 2, 4, "better")
    assert first["share"] == pytest.approx(14 / 18) and first["low"] == pytest.approx(0.5478, abs=1e-4)
    assert second["verdict"] == "worse" and len(comparisons(folder)) == 2
    words = [blind_words(each) for each in (first, second)]
    assert words[0].startswith(
        "Iteration 9 against before training: preferred in 12, not in 2, 4 ties; share 78%, 95 % interval 55%"
    )
    assert words[0].endswith("Better, and not by chance.")
    assert "against 'dogs', iteration 4" in words[1] and "Worse, and not by chance." in words[1]
    write_report(folder)
    assert all(each in (folder / REPORT).read_text() for each in words)


@pytest.mark.parametrize("share, verdict", [(0.7, "better"), (0.5, "open"), (0.2, "worse")])
def test_the_newest_answer_of_the_gate_is_in_it(tmp_path, share, verdict):
    first, last = ({"iteration": i, "blind_share": share, "blind_low": share - 0.1, "blind_high": share + 0.1, "blind_pairs": 40.0}
                   for i in (5, 10))  # fmt: skip
    folder = folder_with(tmp_path, [first | {"blind_share": 0.0}, last, {"iteration": 11, "reward_mean": 1.0}])
    found = report_of(folder)["gate"]
    assert (found["iteration"], found["pairs"], found["share"], found["verdict"]) == (10, 40, share, verdict)
    assert f"iteration 10: preferred in {share:.0%} of 40 pairs" in as_text(report_of(folder))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b'{"base": 5}', b"null"])
def test_a_damaged_state_of_held_out_prompts_costs_only_what_it_holds(tmp_path, content):
    folder = folder_with(tmp_path, [measured(0.2, 0.01)])
    (folder / "held_out.json").write_bytes(content)
    found = report_of(folder)["held_out"]
    assert found["after"] == 0.7 and found["images"] is None and found["best"] is None


def test_of_a_training_and_also_of_one_that_was_cut_short(tmp_path):
    run_of(tmp_path, Moving(every=1), iterations=4)
    leave_report(tmp_path / "cats")
    text = (tmp_path / "cats" / REPORT).read_text()
    assert "4 iterations, done." in text and "## Held-out prompts" in text and "(25 images)" in text
    assert "| held_out_fid | 10 | 12 |" in text and "Warnings while it trained: 1." in text
    with pytest.raises(KeyboardInterrupt):
        run_of(tmp_path / "two", Measured(every=1, fails_at=2))
    assert "2 iterations, cancelled." in as_text(report_of(tmp_path / "two" / "cats"))


def test_a_report_that_no_disk_takes_is_logged_and_costs_nothing(tmp_path, caplog):
    (tmp_path / "cats" / REPORT).mkdir(parents=True)
    leave_report(tmp_path / "cats")
    assert "cats: its report could not be written" in caplog.text
