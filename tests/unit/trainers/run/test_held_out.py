"""Held-out prompts while a run trains: when they are measured, what is kept, and that nothing of the training changes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
from posttrain.rewards.base.distances import Distance
from posttrain.rewards.base.prompt import Prompt
from posttrain.tests.unit.trainers.run.run_helpers import Counter, Heard
from posttrain.trainers.run import RunPlan, Session
from posttrain.trainers.run.alarms import Alarms
from posttrain.trainers.run.held_out import BEST, LAST
from posttrain.trainers.run.metrics import read_metrics
from posttrain.trainers.run.stopping import HELD_FALLS, HELD_PLATEAU, StopRule
from posttrain.trainers.sampling.evaluation import Apart


@dataclass
class Measured:
    """Scores four images with the policy's value and knows what was asked of it."""

    every: int = 3
    hand_out: str = LAST
    identity: str = "one"
    fails_at: int = 0
    asked: list = field(default_factory=list)

    def measure(self, policy, compare, known=None):
        self.asked.append(compare)
        if len(self.asked) == self.fails_at:
            raise KeyboardInterrupt
        value = float(policy.value)
        scores = SimpleNamespace(values=torch.tensor([value, value + 0.1, value - 0.1, math.nan]))
        base = SimpleNamespace(values=torch.tensor([0.5, 0.5, 0.5, 0.5])) if compare else None
        pictures = torch.full((4, 8, 8, 3), 0.5)
        return SimpleNamespace(scores=scores, images=pictures, base=base, base_images=pictures, evaluations=60,
                               apart=None, known=None, prompts=(Prompt("a cat"),) * 4)  # fmt: skip


def run_of(tmp_path, evaluation, iterations=8, heard=None, **plan) -> Session:
    session = Session(tmp_path, RunPlan("cats", iterations, evaluation=evaluation, **plan), Counter(), {"a": 1},
                      Heard() if heard is None else heard)  # fmt: skip
    with session:
        while not session.done:
            session.advance(session.policy.stepped())
    return session


def lines(tmp_path):
    return read_metrics(tmp_path / "cats" / "metrics.jsonl")


def test_it_is_measured_when_it_is_due_and_in_the_end_the_base_once(tmp_path):
    evaluation, heard = Measured(), Heard()
    session = run_of(tmp_path, evaluation, heard=heard)
    assert evaluation.asked == [True, False, False]
    assert [line["iteration"] for line in lines(tmp_path) if "held_out_reward" in line] == [3, 6, 8]
    last = lines(tmp_path)[-1]
    value = float(session.policy.value)
    assert last["held_out_reward"] == pytest.approx(value) and last["held_out_base"] == 0.5
    assert last["held_out_gain"] == pytest.approx(value - 0.5), "paired: the image without a score is left out"
    assert last["held_out_error"] == pytest.approx(0.1 / math.sqrt(3))
    said = [message["text"] for message in heard.of("message") if "Held-out" in message["text"]]
    assert said == ["Held-out prompts: 4 images every 3 iterations, 60 network evaluations each time. Before training they "
                    "score 0.5."]  # fmt: skip
    files = sorted(path.name for path in (tmp_path / "cats" / "samples").iterdir())
    assert [file.split(".")[0] for file in files] == [
        *(f"compared_{i:06d}" for i in (0, 8)), *(f"held_out_{i:06d}" for i in (0, 3, 6, 8))]  # fmt: skip
    assert all(event["held_out"] for event in heard.of("samples"))


def test_nothing_that_is_trained_changes(tmp_path):
    with_it = run_of(tmp_path / "with", Measured(every=1))
    without = run_of(tmp_path / "without", None)
    assert torch.equal(with_it.policy.value, without.policy.value)


@pytest.mark.parametrize("hand_out, picked", [(LAST, 8), (BEST, None)])
def test_the_best_is_kept_and_handed_out_by_choice(tmp_path, hand_out, picked):
    session = run_of(tmp_path, Measured(every=1, hand_out=hand_out))
    values = [line["held_out_reward"] for line in lines(tmp_path)]
    best = values.index(max(values)) + 1
    assert best != 8, "otherwise this shows nothing"
    assert float(session.result.value) == pytest.approx(values[(picked or best) - 1])
    assert float(session.policy.value) == pytest.approx(values[-1]), "a later training goes on from the last"
    assert f"Best on held-out prompts: {max(values):.4g}, in iteration {best}" in session.summary
    kept = [path.name for path in (tmp_path / "cats" / "best").iterdir()]
    assert kept == [f"state_{best:06d}.safetensors"]
    again = run_of(tmp_path, Measured(every=1, hand_out=hand_out))
    assert torch.equal(again.result.value, session.result.value), "queued again there is nothing to train"


def test_a_look_that_has_changed_is_said_once_in_a_run(tmp_path):
    class Burnt(Measured):
        def measure(self, policy, compare, known=None):
            found = super().measure(policy, compare)
            found.base_images = torch.rand(4, 32, 32, 3, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.2
            found.images = torch.ones(4, 32, 32, 3)
            return found

    heard = Heard()
    run_of(tmp_path, Burnt(every=1), iterations=3, heard=heard)
    run_of(tmp_path, Burnt(every=1), iterations=5, heard=heard)
    said = [message for message in heard.of("message") if message.get("alarm") == "looks"]
    assert [message["values"]["number"] for message in said].count("burnt") == 1
    assert all(message["level"] == "warning" and message["text"].startswith("On held-out prompts") for message in said)


@dataclass
class Moving(Measured):
    """Its pictures move away from the second measurement on; 25 scores rise by 0.1 to 0.3 an iteration."""

    known: list = field(default_factory=list)

    def measure(self, policy, compare, known=None):
        found, count = super().measure(policy, compare), len(self.asked)
        self.known.append(known)
        values = torch.linspace(0.1, 0.3, 25) * count
        found.scores.values, found.known = values, "features"
        if compare:
            found.base.values = torch.zeros(25)
        distances = (Distance("KID (CLIP)", 9.0, 1.0, 0.1), Distance("FID (CLIP)", 10.0 + 2 * (count > 1), 10.0, 0.5))
        found.apart = Apart(distances, 25, 25, False)
        return found


def test_distances_are_in_the_line_and_reward_up_fid_up_is_said_once(tmp_path):
    evaluation, heard = Moving(every=1), Heard()
    run_of(tmp_path, evaluation, iterations=3, heard=heard)
    found = lines(tmp_path)
    assert [(line["held_out_fid"], line["held_out_kid"]) for line in found] == [(10.0, 9.0), (12.0, 9.0), (12.0, 9.0)]
    assert evaluation.known == [None, "features", "features"], "what stays the same is made once in a session"
    run_of(tmp_path, later := Moving(every=1, asked=[False]), iterations=5, heard=heard)
    assert later.known[0] is None, "and again where a run goes on"
    (said,) = [message for message in heard.of("message") if message.get("alarm") == "away"]
    assert said["values"] == {"name": "FID (CLIP)", "first": 10.0, "now": 12.0} and said["level"] == "warning"
    assert any("KID (CLIP): 1 before, 9 after" in message["text"] for message in heard.of("message"))


def test_a_rising_fid_without_a_certain_gain_is_no_alarm(tmp_path):
    class Flat(Moving):
        def measure(self, policy, compare, known=None):
            found = super().measure(policy, compare, known)
            found.scores.values = torch.tensor([1.0, -1.0] * 12 + [0.1])
            return found

    heard = Heard()
    run_of(tmp_path, Flat(every=1), iterations=4, heard=heard)
    assert not [message for message in heard.of("message") if message.get("alarm") == "away"]


def test_a_best_policy_that_is_lost_is_said(tmp_path):
    session = run_of(tmp_path, Measured(every=1, hand_out=BEST))
    for path in (tmp_path / "cats" / "best").iterdir():
        path.write_bytes(b"")
    again = run_of(tmp_path, Measured(every=1, hand_out=BEST))
    assert "cannot be read" in again.summary and torch.equal(again.result.value, session.policy.value)


def test_a_run_that_goes_on_remembers_and_forgets_what_came_after_it(tmp_path):
    run_of(tmp_path, Measured(every=1), iterations=4)
    later = Measured(every=1)
    run_of(tmp_path, later, iterations=6)
    assert later.asked == [False, False]
    whole = [line["held_out_reward"] for line in lines(tmp_path)]
    for path in (tmp_path / "cats" / "checkpoints").glob("*6.safetensors"):
        path.unlink()
    best = json.loads((tmp_path / "cats" / "held_out.json").read_text())["best"]["iteration"]
    run_of(tmp_path, Measured(every=1), iterations=6)
    assert [line["held_out_reward"] for line in lines(tmp_path)] == whole
    assert json.loads((tmp_path / "cats" / "held_out.json").read_text())["best"]["iteration"] == best


def test_other_prompts_begin_anew(tmp_path):
    run_of(tmp_path, Measured(), iterations=3)
    other = Measured(identity="two")
    run_of(tmp_path, other, iterations=6)
    assert other.asked == [True]


def test_a_cancel_in_the_middle_costs_the_measurement_and_not_the_iteration(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_of(tmp_path, Measured(fails_at=1))
    assert [line["iteration"] for line in lines(tmp_path)] == [1, 2, 3] and "held_out_reward" not in lines(tmp_path)[-1]
    assert torch.equal(run_of(tmp_path, Measured()).policy.value, run_of(tmp_path / "other", None).policy.value)


def test_a_loop_inside_another_refuses_it(tmp_path):
    outer = Session(tmp_path, RunPlan("cats", 1), Counter(), {}, Heard())
    with outer, pytest.raises(ValueError, match="connect it to the outer Loop Start"):
        run_of(tmp_path, Measured())


def test_an_alarm_says_that_it_is_learned_by_heart(tmp_path):
    alarms = Alarms()
    series = [{"iteration": i, "reward_mean": 0.01 * i} for i in range(1, 41)]
    for point in series[4::5]:
        mean = 0.01 * min(point["iteration"], 30 - point["iteration"])
        point |= {"held_out_reward": mean, "held_out_gain": mean, "held_out_error": 0.01}
    said = [(point["iteration"], alarm) for point in series for alarm in alarms.look(point)]
    assert [(iteration, alarm.kind) for iteration, alarm in said] == [(25, "held_out")]
    assert "they are learned by heart" in said[0][1].text and said[0][1].values["until"] == 15


@pytest.mark.parametrize("rule", [StopRule(HELD_PLATEAU, 0.0, 3), StopRule(HELD_FALLS)])
def test_a_rule_ends_a_real_run(tmp_path, rule):
    session = run_of(tmp_path, Measured(every=1), iterations=60, stop=(rule,))
    ended = session.iteration < 60
    assert ended == (rule.when == HELD_PLATEAU), "the trained reward is the held-out one here: it cannot rise while that falls"
    assert ended == ("held-out reward has not risen" in session.summary)
