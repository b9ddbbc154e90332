"""Steering: what a user asks of a run while it trains, carried out between two iterations and kept in its history."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field, replace

import pytest
import torch
from posttrain.tests.unit.trainers.run.run_helpers import Counter, Heard, files, train
from posttrain.trainers.run import RunPlan, Session, StopRule
from posttrain.trainers.run.alarms import Alarms
from posttrain.trainers.run.journal import read_entries
from posttrain.trainers.run.steering import KNOBS, ORDERS, NotTraining, asked_weights, steering_of
from posttrain.trainers.run.stopping import Stopping


@dataclass(frozen=True)
class Remembers(Counter):
    """A policy with a memory, whose steps are as long as the learning rate says."""

    memory: dict = field(default_factory=dict)
    numbers: dict = field(default_factory=dict)

    def state(self):
        return {"value": self.value}, {"metrics": self.metrics, "memory": self.memory}

    def with_state(self, tensors, meta):
        return replace(self, value=tensors["value"], metrics=meta["metrics"], memory=meta["memory"])

    def stepped(self):
        rate = self.memory.get(KNOBS, {}).get("learning rate", 0.1)
        numbers = {"method": "FlowGRPO", "words": "", "numbers": {"optimizer.learning_rate": rate, "method.beta": 0.04}}
        return replace(self, value=self.value + rate, metrics={"reward_mean": float(self.value)}, numbers=numbers)


def steered(root, orders, iterations=12, policy=None, heard=None, settings=None, **plan):
    """Trains; orders: iteration -> what is asked for right before it is done, each (what, value) or what."""
    heard = Heard() if heard is None else heard
    session = Session(root, RunPlan("cats", iterations, **{"save_every": 1000} | plan), policy or Remembers(), settings or {"a": 1},
                      heard)  # fmt: skip
    with session:
        while not session.done:
            for order in orders.get(session.iteration + 1, ()):
                steering_of(root / "cats").order(*(order if isinstance(order, tuple) else (order,)))
            session.advance(session.policy.stepped(), torch.zeros(2, 8, 8, 3))
    return session


def test_a_checkpoint_and_pictures_now(tmp_path):
    heard = Heard()
    steered(tmp_path, {5: ["checkpoint", "sample"]}, heard=heard, samples_every=0, save_every=1)
    assert files(tmp_path) == [1, 4, 5, 6, 8, 9, 10, 11, 12], "it stays beside the series, which leaves it out"
    assert [event["iteration"] for event in heard.of("samples")] == [5]
    assert any("iteration 5 is kept for good" in entry["text"] for entry in read_entries(tmp_path / "cats"))


def test_stop_ends_it_as_a_stop_rule_does_and_queued_again_it_goes_on(tmp_path):
    session = steered(tmp_path, {3: ["stop"]})
    assert session.iteration == 3 and "ended early, after iteration 3 of 12: you have ended it" in session.summary
    assert session.result is session.policy and session.result.metrics["stopped_by"] == "you have ended it"
    assert steered(tmp_path, {}).iteration == 12


def test_a_pause_is_a_state_that_saves_waits_and_goes_on(tmp_path):
    heard, seen = Heard(), []

    def watch():
        steering = steering_of(tmp_path / "cats")
        while not steering.paused:
            time.sleep(0.005)
        seen.append((json.loads((tmp_path / "cats" / "config.json").read_text())["status"], files(tmp_path), steering.plain()))
        steering.order("go on")

    thread = threading.Thread(target=lambda: (started.wait(), watch()))
    started = threading.Event()
    thread.start()
    session = Session(tmp_path, RunPlan("cats", 6, save_every=1000), Remembers(), {"a": 1}, heard)
    with session:
        started.set()
        while not session.done:
            if session.iteration == 2:
                steering_of(tmp_path / "cats").order("pause")
            session.advance(session.policy.stepped())
    thread.join()
    status, saved, told = seen[0]
    assert (status, saved, told["paused"], told["asked"]) == ("paused", [3], True, ["pause"])
    assert [(event["status"], event["iteration"]) for event in heard.of("state")] == [("paused", 3), ("running", 3)]
    assert session.iteration == 6 and heard.of("end")[0]["status"] == "done"


def test_a_cancel_ends_a_pause_with_all_saved(tmp_path):
    def cancelled():
        raise KeyboardInterrupt

    session = Session(tmp_path, RunPlan("cats", 6), Remembers(), {"a": 1}, Heard(), check_cancelled=cancelled)
    with pytest.raises(KeyboardInterrupt), session:
        steering_of(tmp_path / "cats").order("pause")
        session.advance(session.policy.stepped())
    assert files(tmp_path) == [1] and "was cancelled after iteration 1" in session.summary


def test_a_changed_number_holds_for_the_next_steps_and_through_a_resume(tmp_path):
    session = steered(tmp_path, {4: [("learning rate", 0.5)]}, iterations=6)
    assert float(session.policy.value) == pytest.approx(0.5 + 4 * 0.1 + 2 * 0.5)
    assert float(steered(tmp_path, {}, iterations=8).policy.value) == pytest.approx(0.5 + 4 * 0.1 + 4 * 0.5)
    (entry,) = [each for each in read_entries(tmp_path / "cats") if each.get("values", {}).get("number")]
    assert (entry["iteration"], entry["level"], entry["values"]) == (
        4, "steer", {"number": "learning rate", "value": 0.5, "before": 0.1})  # fmt: skip


def test_new_settings_of_the_workflow_speak_last(tmp_path):
    steered(tmp_path, {2: [("learning rate", 0.5)]}, iterations=3)
    session = steered(tmp_path, {}, iterations=5, settings={"a": 2}, when_exists="continue with changed settings")
    assert KNOBS not in session.policy.memory
    assert any("holds no longer (learning rate 0.5)" in entry["text"] for entry in read_entries(tmp_path / "cats"))


@pytest.mark.parametrize("order, error", [
    (("learning rate", -1.0), "value: -1.0 is no learning rate"), (("learning rate", float("nan")), "value: nan"),
    (("learning rate", None), "value: None"), (("KL weight", 1e9), "value: "), (("explode",), "do: 'explode' is unknown; use one of pause, go on"),
])  # fmt: skip
def test_an_order_that_cannot_be_is_refused_and_the_training_goes_on(tmp_path, order, error):
    with Session(tmp_path, RunPlan("cats", 3), Remembers(), {"a": 1}, Heard()) as session:
        session.advance(session.policy.stepped())
        with pytest.raises(ValueError, match=error):
            steering_of(tmp_path / "cats").order(*order)
        while not session.done:
            session.advance(session.policy.stepped())
    assert session.iteration == 3


def test_a_training_without_that_number_says_so(tmp_path):
    with Session(tmp_path, RunPlan("cats", 3), Counter(), {"a": 1}, Heard()) as session:
        session.advance(session.policy.stepped())
        with pytest.raises(ValueError, match="this training has no KL weight"):
            steering_of(tmp_path / "cats").order("KL weight", 0.1)


@dataclass(frozen=True)
class Weighed(Remembers):
    """Its reward is made of two others."""

    def stepped(self):
        asked = asked_weights(self)
        weights = {"weight/red": asked.get("red", 1.0), "weight/blue": asked.get("blue", 0.5)}
        return replace(super().stepped(), metrics={"reward_mean": weights["weight/red"] + weights["weight/blue"], **weights})


def test_weights_of_rewards_are_numbers_like_the_others(tmp_path):
    session = steered(tmp_path, {4: [("weight of red", -2.0)]}, iterations=6, policy=Weighed())
    assert asked_weights(session.policy) == {"red": -2.0} and session.policy.metrics["reward_mean"] == -1.5
    rows = [json.loads(line) for line in (tmp_path / "cats/metrics.jsonl").read_text().splitlines()]
    assert [row["weight/red"] for row in rows] == [1.0] * 4 + [-2.0] * 2, "it is drawn"
    (entry,) = [each for each in read_entries(tmp_path / "cats") if each.get("values", {}).get("number")]
    assert (entry["iteration"], entry["values"]) == (4, {"number": "weight of red", "value": -2.0, "before": 1.0})


def test_weights_that_cannot_be_are_refused(tmp_path):
    with Session(tmp_path, RunPlan("cats", 3), Weighed(), {"a": 1}, Heard()) as session:
        session.advance(session.policy.stepped())
        steering = steering_of(tmp_path / "cats")
        for order, error in (
            (("weight of green", 1.0), "this training has no weight of green"), (("weight of red", -1e4), "from -100 to 1000"),
            (("weight of red", float("nan")), "value: nan is no weight of red"),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=error):
                steering.order(*order)
        steering.order("weight of red", 0.0)
        with pytest.raises(ValueError, match="with every weight 0 nothing would be rewarded"):
            steering.order("weight of blue", 0)
        assert steering.plain()["asked"] == ["weight of red"] and steering.numbers["weight of blue"] == 0.5
        while not session.done:
            session.advance(session.policy.stepped())


def test_another_weight_is_no_fall_of_the_reward_and_no_reason_to_stop():
    points = [
        {"iteration": i, "reward_mean": 1 + 0.01 * (i % 3) - 0.9 * (i > 30), "weight/a": 1.0 - (i > 30)} for i in range(1, 61)
    ]
    rules = (StopRule("reward no longer rises", 0.0, 31),)

    def told(points):
        alarms, stopping = Alarms(), Stopping(rules)
        return [alarm.kind for point in points for alarm in alarms.look(point)], [stopping.look(point) for point in points]

    kinds, ended = told(points)
    assert kinds == [] and not any(ended)
    kinds, ended = told([{key: value for key, value in point.items() if key != "weight/a"} for point in points])
    assert kinds == ["fall"] and any(ended), "as it would be under the same weights"


def test_a_run_that_is_not_trained_takes_no_orders(tmp_path):
    train(tmp_path, 2)
    for order in ORDERS:
        with pytest.raises(NotTraining, match="the run 'cats' is not being trained by this ComfyUI"):
            steering_of(tmp_path / "cats").order(order)
