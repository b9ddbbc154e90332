"""The gate: what is kept as the best, what is compared with what, and which rule ends a run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from posttrain.tests.unit.trainers.run.run_helpers import Counter, Heard
from posttrain.tests.unit.trainers.run.test_held_out import Measured, lines
from posttrain.trainers.data.blind import bradley_terry, win_share
from posttrain.trainers.run import RunPlan, Session
from posttrain.trainers.run.gate import AGAINST, BASE, BEST
from posttrain.trainers.run.held_out import BEST as GIVE_BEST
from posttrain.trainers.run.stopping import BLIND, StopRule

PAIRS = 100


class Judged:
    """Prefers the brighter picture in this share of the pairs. likes: the brightness of a policy by its value."""

    def __init__(self, against: str, share: float = 0.8):
        self.against, self.share, self.asked = against, share, []

    def compare(self, images, others, prompts, seed):
        mine, other = float(images.mean()), float(others.mean())
        self.asked.append((round(mine, 3), round(other, 3), seed))
        wins = round(PAIRS * (self.share if mine > other else 1 - self.share if mine < other else 0.5))
        counts = (wins, PAIRS - wins)
        return SimpleNamespace(share=win_share(*counts), strength=bradley_terry(*counts), pairs=PAIRS)


class Counted(Counter):
    """A policy whose value is the number of its steps."""

    def stepped(self, **metrics):
        return Counted(self.value + 1, {"reward_mean": float(self.value + 1), **metrics})


class Seen(Measured):
    """Pictures as bright as ``light`` says of the policy's value; the model before training is at 0.5."""

    def __init__(self, blind, light, hand_out):
        super().__init__(1, hand_out)
        self.blind, self.light = blind, light

    def measure(self, policy, compare, known=None):
        found = super().measure(policy, compare, known)
        found.images = torch.full((4, 8, 8, 3), self.light[int(policy.value)])
        found.prompts = ()
        return found


def gated(tmp_path, light, against=BEST, share=0.8, **plan):
    blind = Judged(against, share)
    evaluation, heard = Seen(blind, (0.5, *light), GIVE_BEST), Heard()
    start = Counted(torch.zeros(1, dtype=torch.float64))
    session = Session(tmp_path, RunPlan("cats", len(light), evaluation=evaluation, **plan), start, {"a": 1}, heard)
    with session:
        while not session.done:
            session.advance(session.policy.stepped())
    return session, blind, heard


def test_each_policy_must_beat_the_best_so_far_and_the_first_the_model(tmp_path):
    session, blind, _ = gated(tmp_path, (0.4, 0.6, 0.55, 0.7, 0.65))
    assert [(mine, other) for mine, other, _ in blind.asked] == [(0.4, 0.5), (0.6, 0.5), (0.55, 0.6), (0.7, 0.6), (0.65, 0.7)]
    assert int(session.result.value) == 4 and "iteration 4: the policy of that iteration is handed out" in session.summary
    shares = [line["blind_share"] for line in lines(tmp_path)]
    assert shares == pytest.approx([0.2, 0.8, 0.2, 0.8, 0.2])
    assert (
        lines(tmp_path)[1]["blind_low"] > 0.5 > lines(tmp_path)[0]["blind_high"] and lines(tmp_path)[0]["blind_pairs"] == PAIRS
    )
    assert lines(tmp_path)[1]["blind_strength"] == pytest.approx(1.386, abs=1e-3)


def test_a_gain_that_may_be_chance_is_none(tmp_path):
    session, _, heard = gated(tmp_path, (0.6, 0.7), share=0.55)
    assert int(session.result.value) == 2 and "No policy was judged better than your model" in session.summary
    said = [data["text"] for data in heard.of("message")]
    assert any("preferred in 55% of 100 pairs (95 %: 45% to 64%), no different by what is known" in text for text in said)


def test_against_the_model_the_reward_decides_among_those_that_pass(tmp_path):
    """The reward of a policy is its value, which rises; the third fails the test against the model."""
    session, blind, _ = gated(tmp_path, (0.6, 0.55, 0.4), against=BASE)
    assert [other for _, other, _ in blind.asked] == [0.5, 0.5, 0.5] and int(session.result.value) == 2


@pytest.mark.parametrize("against", AGAINST)
def test_a_run_that_goes_on_compares_with_the_same_as_before(tmp_path, against):
    light = (0.6, 0.7, 0.65, 0.8)
    whole, blind, _ = gated(tmp_path / "whole", light, against)
    gated(tmp_path / "cut", light[:2], against)
    again, later, _ = gated(tmp_path / "cut", light, against)
    assert later.asked == blind.asked[2:] and again.result.value == whole.result.value


def test_the_rule_ends_a_run_that_is_beyond_doubt_worse(tmp_path):
    session, _, _ = gated(tmp_path, (0.6, 0.55, 0.7), stop=(StopRule(BLIND),))
    assert session.iteration == 2 and "preferred in only 20% of 100 blind pairs, which is below even" in session.summary
    session, _, _ = gated(tmp_path / "other", (0.6, 0.55, 0.7), share=0.55, stop=(StopRule(BLIND),))
    assert session.iteration == 3


def test_the_rule_without_blind_comparisons_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"^stop: the rule '{BLIND}' needs blind comparisons; put Blind Comparison between"):
        Session(tmp_path, RunPlan("cats", 3, evaluation=Measured(), stop=(StopRule(BLIND),)), Counter(), {}, Heard())
