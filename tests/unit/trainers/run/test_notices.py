"""What is said once in a run, and at its end where nothing was learned."""

from __future__ import annotations

import pytest
from posttrain.tests.unit.trainers.run.run_helpers import Counter, Heard
from posttrain.trainers.run import RunPlan, Session
from posttrain.trainers.run.notices import SENTENCES, SHOWS, Notices


def trained(tmp_path, *metrics):
    heard = Heard()
    session = Session(tmp_path, RunPlan("cats", len(metrics)), Counter(), {}, heard)
    with session:
        for each in metrics:
            session.advance(session.policy.stepped(**each))
    return session, heard


@pytest.mark.parametrize("name", SENTENCES)
def test_each_is_said_once(tmp_path, name):
    _, heard = trained(tmp_path, {}, {}, {}, {}, {name: 0.2}, {name: 0.2}, {}, {name: 0.1})
    assert [message["alarm"] for message in heard.of("message")] == [name]


def test_a_lora_may_be_too_small_to_show_in_its_first_iterations(tmp_path):
    _, heard = trained(tmp_path, *[{SHOWS: 0.06}] * 4, *[{SHOWS: 0.7}] * 4)
    assert not heard.of("message")
    _, heard = trained(tmp_path / "other", *[{SHOWS: 0.06}] * 5)
    assert "only about 6 % of its effect shows" in heard.of("message")[0]["text"]
    _, heard = trained(tmp_path / "half", *[{SHOWS: 0.5}] * 6)
    assert not heard.of("message")


@pytest.mark.parametrize(
    "metrics, reason",
    [
        ({"updates": 0, "groups": 8.0, "zero_spread_groups": 8.0}, "all had the same score"),
        ({"updates": 0, "desirable": 0.0, "skipped": 8.0}, "all had the same score"),
        ({"updates": 0, "pairs": 0.0}, "No pair came out of the scores"),
        ({"updates": 0, "skipped_updates": 1}, "Every update was skipped"),
    ],
)
def test_a_run_that_learned_nothing_ends_with_that_sentence(tmp_path, metrics, reason):
    session, heard = trained(tmp_path, metrics, metrics)
    assert "learned nothing: in none of 2 iterations" in session.summary and reason in session.summary
    assert heard.of("end")[0]["text"] == session.summary


def test_one_update_is_enough_not_to_say_so(tmp_path):
    session, _ = trained(tmp_path, {"updates": 0, "pairs": 0.0}, {"updates": 1, "pairs": 3.0})
    assert "learned nothing" not in session.summary


def test_a_policy_that_does_not_say_how_often_it_was_updated_has_learned():
    notices = Notices()
    notices.look({"iteration": 1})
    assert notices.nothing_learned() == ""


@pytest.mark.parametrize(
    "accuracies, said",
    [
        ([0.49, 0.52, 0.5, 0.47, 0.51] * 4, True),
        ([0.5 + 0.02 * i for i in range(20)], False),
        ([0.9] * 20, False),
        ([0.5] * 5, False),  # too few to tell
        ([0.55] * 20, False),
    ],
)
def test_pairs_that_are_still_guessed_at_the_end(accuracies, said):
    notices = Notices()
    for i, accuracy in enumerate(accuracies, 1):
        notices.look({"iteration": i, "updates": 2, "accuracy": accuracy})
    assert ("only 50 % of cases, as a guess would" in notices.nothing_learned()) == said
    assert bool(notices.nothing_learned()) == said
