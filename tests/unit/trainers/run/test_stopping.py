"""Stop rules: each ends a run, says why in every place, and is still there after a resume."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from posttrain.tests.unit.trainers.run.run_helpers import Counter, Heard, train
from posttrain.trainers.run import STOPPED_BY, RunPlan, Session, StopRule
from posttrain.trainers.run.held_out import SECONDS
from posttrain.trainers.run.journal import read_entries
from posttrain.trainers.run.stopping import (
    ALARM,
    BLIND,
    HELD_FALLS,
    HELD_OUT,
    HELD_PLATEAU,
    HELD_REACHED,
    IMAGES,
    KL,
    MINUTES,
    PLATEAU,
    REACHED,
    RULES,
    Stopping,
)


def points(count: int, **numbers):
    """numbers: a value for all, or a function of the iteration."""
    return [{"iteration": i, "seconds": 30.0} | {name: value(i) if callable(value) else value for name, value in numbers.items()}
            for i in range(1, count + 1)]  # fmt: skip


def blind(at: int, high: float) -> list[dict]:
    """Pictures compared blind in one iteration of ten."""
    found = {"blind_share": 0.3, "blind_low": 0.1, "blind_high": high, "blind_pairs": 20.0}
    return [{"iteration": i, "seconds": 1.0, **(found if i == at else {})} for i in range(1, 11)]


def measured(every: int, reward, error: float = 0.01):
    """Points of a run whose trained reward rises, measured on held-out prompts every so often."""
    made = points(40, reward_mean=lambda i: 0.01 * i)
    for point in made[every - 1 :: every]:
        mean = reward(point["iteration"])
        point |= {"held_out_reward": mean, "held_out_gain": mean - 0.5, "held_out_error": error}
    return made


def up_and_down(i: int) -> float:
    return 0.5 + 0.01 * min(i, 30 - i)


def ended_at(rules, series, alarms_at: int = 0) -> tuple[int, str]:
    stopping = Stopping(rules)
    for point in series:
        said = stopping.look(point, ["the pictures changed"] if point["iteration"] == alarms_at else [])
        if said:
            return point["iteration"], said
    return 0, stopping.missing()


@pytest.mark.parametrize(
    "rule, series, iteration, words",
    [
        (StopRule(KL, 0.1), points(40, kl=lambda i: 0.01 * i), 13, "KL to your model is 0.11, above the 0.1"),
        (StopRule(REACHED, 0.8), points(40, reward_mean=lambda i: 0.05 * i), 18, "reward has reached 0.8"),
        (StopRule(PLATEAU, 0.0, 10), points(40, reward_mean=lambda i: min(i, 12)), 26, "not risen above 12 for 10 iterations"),
        (StopRule(PLATEAU, 0.5, 10), points(60, reward_mean=lambda i: 0.01 * i), 15, "not risen above"),
        (StopRule(MINUTES, 3), points(40), 6, "trained for 3 minutes"),
        (StopRule(IMAGES, 100), points(40, images=24), 5, "made 120 images"),
        (StopRule(IMAGES, 100), points(40, images=25), 4, "made 100 images"),
        (StopRule(HELD_REACHED, 0.6), measured(5, up_and_down), 10, "held-out reward has reached 0.6"),
        (StopRule(HELD_PLATEAU, 0.0, 12), measured(5, up_and_down), 27, "held-out reward has not risen above 0.65 for 12"),
        (StopRule(HELD_PLATEAU, 0.12, 12), measured(5, up_and_down), 17, "held-out reward has not risen above 0.55 for 12"),
        (StopRule(BLIND), blind(7, 0.49), 7, "its pictures were preferred in only 30% of 20 blind pairs, which is below even"),
        (StopRule(BLIND), blind(7, 0.5), 0, ""),
        (StopRule(HELD_FALLS), measured(5, up_and_down), 25, "fallen from 0.65 in iteration 15 to 0.55, while the reward"),
    ],
)
def test_each_ends_the_run_where_it_should(rule, series, iteration, words):
    assert ended_at([rule], series) == (iteration, ended_at([rule], series)[1]) and words in ended_at([rule], series)[1]
    other = StopRule(MINUTES, 1e6)
    assert ended_at([other, rule], series)[0] == iteration, "any of several"
    assert ended_at([other], series)[0] == 0


def test_a_run_that_a_rule_ends_tells_a_page_in_another_language_why(tmp_path):
    heard = Heard()
    train(tmp_path, 9, heard=heard, stop=(StopRule(IMAGES, 1e9), StopRule(MINUTES, 1e-9)))
    ends = [event for event in heard.of("message") if event.get("values", {}).get("what") == "ends"]
    assert len(ends) == 1 and ends[0]["text"].startswith("The training ends after iteration 1 of 9: it has trained for")
    values = ends[0]["values"]
    assert (values["why"], values["iteration"], values["iterations_in_all"]) == (MINUTES, 1, 9) and values["value"] >= 0
    assert read_entries(tmp_path / "cats")[-1]["values"] == values


def test_an_alarm_ends_it_where_asked():
    assert ended_at([StopRule(ALARM)], points(20), alarms_at=7) == (7, "an alarm was raised: the pictures changed")
    assert ended_at([StopRule(KL, 1.0)], points(20, kl=0.0), alarms_at=7)[0] == 0


def test_a_reward_that_goes_on_rising_is_no_plateau():
    assert ended_at([StopRule(PLATEAU, 0.0, 3)], points(200, reward_mean=lambda i: 0.001 * i))[0] == 0


@pytest.mark.parametrize("when, name", [(KL, "KL"), (REACHED, "a reward"), (PLATEAU, "a reward"), (IMAGES, "how many images")])
def test_a_rule_that_can_never_act_is_said_once(when, name):
    stopping, said = Stopping([StopRule(when, 1.0)]), []
    for point in points(10):
        stopping.look(point)
        said += [(point["iteration"], stopping.missing())] if stopping.missing() else []
    assert len(said) == 1 and f"'{when}' can never act" in said[0][1] and name in said[0][1]
    assert said[0][0] == 3


def once(iteration: int) -> float:
    return 1.0 if iteration == 1 else 0.0


@pytest.mark.parametrize(
    "when, numbers, missed",
    [
        (KL, {"images": 4, "reward_mean": 0.0}, True),
        (KL, {"kl": 0.0}, False),
        (IMAGES, {"kl": 0.0, "reward_mean": 0.0}, True),
        (IMAGES, {"images": once}, False),
        (REACHED, {"reward_mean": 0.0}, False),
    ],
)
def test_a_rule_is_missed_for_its_own_number_only(when, numbers, missed):
    assert ("can never act" in ended_at([StopRule(when, 50.0)], points(3, **numbers))[1]) == missed


def test_iterations_that_do_not_say_how_long_they_took_took_no_time():
    assert ended_at([StopRule(MINUTES, 0.1)], [{"iteration": i} for i in range(1, 61)])[0] == 0


def test_the_time_of_measuring_counts():
    series = [point | {SECONDS: 30.0} for point in points(10)]
    assert ended_at([StopRule(MINUTES, 3)], series)[0] == 3


def test_a_held_out_reward_that_stays_as_it_is_has_not_risen_and_one_that_never_came_ends_nothing():
    rule = StopRule(HELD_PLATEAU, 0.0, 12)
    assert ended_at([rule], measured(5, lambda i: 0.5))[0] == 17
    assert ended_at([rule], points(40, reward_mean=0.5))[0] == 0
    both = [rule, StopRule(HELD_PLATEAU, 0.12, 12)]
    assert ended_at(both, measured(5, up_and_down))[0] == ended_at(both[::-1], measured(5, up_and_down))[0] == 17


def test_of_several_plateaus_the_largest_gain_is_asked_for():
    rules, rising = [StopRule(PLATEAU, 0.0, 10), StopRule(PLATEAU, 0.5, 10)], points(60, reward_mean=lambda i: 0.01 * i)
    assert ended_at(rules, rising)[0] == ended_at(rules[::-1], rising)[0] == 15 and ended_at(rules[:1], rising)[0] == 0


@pytest.mark.parametrize("settings, words", [
    ({"when": "never"}, "when: unknown 'never'"), ({"when": KL, "value": 0.0}, "'KL is above' 0 would stop at once"),
    ({"value": float("nan")}, "value: nan is no number"), ({"patience": 0}, "patience: 0")])  # fmt: skip
def test_a_rule_that_makes_no_sense_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        StopRule(**settings)


def test_all_rules_are_tried_here():
    assert set(RULES) == {KL, REACHED, PLATEAU, MINUTES, IMAGES, ALARM, HELD_REACHED, HELD_PLATEAU, HELD_FALLS, BLIND}


@pytest.mark.parametrize("series", [
    measured(5, up_and_down, error=0.3),  # chance explains it
    measured(5, lambda i: 0.65 - 0.1 * (i == 20)),  # one bad measurement
    [point | {"reward_mean": 0.5} for point in measured(5, up_and_down)],  # the trained reward does not rise
])  # fmt: skip
def test_what_is_no_fall_on_held_out_prompts(series):
    assert ended_at([StopRule(HELD_FALLS)], series)[0] == 0


@pytest.mark.parametrize("when", HELD_OUT)
def test_a_rule_about_held_out_prompts_needs_some(when):
    with pytest.raises(ValueError, match=f"'{when}' needs held-out prompts; connect Evaluate While Training"):
        RunPlan("cats", 5, stop=(StopRule(when, 1.0),))


def run_of(tmp_path, plan, heard):
    session = Session(tmp_path, plan, Counter(), {"a": 1}, heard)
    with session:
        while not session.done:
            session.advance(replace(session.policy.stepped(), metrics={"reward_mean": 0.1 * (session.iteration + 1)}))
    return session


def test_it_is_said_on_the_page_in_the_folder_and_on_the_policy_and_stays_so(tmp_path):
    plan, heard = RunPlan("cats", 50, stop=(StopRule(REACHED, 1.0),)), Heard()
    session = run_of(tmp_path, plan, heard)
    why = "its reward has reached 1"
    assert session.iteration == 12 and session.policy.metrics[STOPPED_BY] == why
    assert any(f"ends after iteration 12 of 50: {why}" in message["text"] for message in heard.of("message"))
    assert f"ended early, after iteration 12 of 50: {why}" in session.summary == heard.of("end")[0]["text"]
    assert json.loads((tmp_path / "cats" / "config.json").read_text())["stopped"] == why
    again = run_of(tmp_path, plan, Heard())
    assert again.iteration == 12 and why in again.summary, "queued again it has still reached its end"
    longer = run_of(tmp_path, replace(plan, stop=(StopRule(REACHED, 2.0),)), Heard())
    assert longer.iteration == 22 and longer.policy.metrics[STOPPED_BY] == "its reward has reached 2"
    assert run_of(tmp_path, replace(plan, stop=(), iterations=25), Heard()).iteration == 25, "without rules it goes on"
