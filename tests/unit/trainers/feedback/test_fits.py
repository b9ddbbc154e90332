"""Feedback of the wrong kind, or of another rollout, is refused in words."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.tests.unit.trainers.preference_cases import ONE, in_step_pairs, made
from posttrain.trainers.d3po import D3PO
from posttrain.trainers.diffusion_dpo import DiffusionDPO
from posttrain.trainers.feedback.advantages import Advantages, advantages
from posttrain.trainers.feedback.fits import check_fits, pairs_only, teaches, with_reward
from posttrain.trainers.feedback.labels import Labels, labels
from posttrain.trainers.feedback.pairs import Preferences, preferences
from posttrain.trainers.feedback.step_pairs import StepPreferences
from posttrain.trainers.kto import KTO
from posttrain.trainers.mapo import MaPO
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.spo import SPO


@pytest.mark.parametrize(
    "settings, feedback, words",
    [
        (DiffusionDPO(), "advantages", ["pairs of images", "Preferences"]),
        (NFT(), "pairs", ["learns from advantages", "Advantages"]),
        (KTO(), "pairs", ["thumbs up and down", "Thumbs"]),
        (MaPO(), "thumbs", ["pairs of images", "Preferences"]),
        (SPO(), "pairs", ["inside the denoising steps", "Step Rollout"]),
        (D3PO(), "steps", ["pairs of images", "Preferences"]),
    ],
)
def test_the_wrong_kind_of_feedback_names_the_node_to_use(settings, feedback, words):
    policy, run, scores = made("sd3")
    feed = {
        "advantages": lambda: advantages(scores),
        "pairs": lambda: preferences(scores),
        "thumbs": lambda: labels(scores),
        "steps": lambda: in_step_pairs(run),
    }[feedback]()
    with pytest.raises(ValueError) as error:
        train_step(policy, run, feed, Trainer(settings, ONE))
    assert all(word in str(error.value) for word in words), error.value


def test_feedback_that_cannot_be_of_this_rollout_is_refused():
    policy, run, scores = made("sd3")
    pairs = preferences(scores)
    for wrong, word in (
        (replace(pairs, winner=pairs.winner + 8), "this very rollout"),
        (replace(pairs, loser=pairs.winner), "same image twice"),
        (replace(pairs, loser=pairs.loser.flip(0)), "two different prompts"),
    ):
        with pytest.raises(ValueError, match=word):
            train_step(policy, run, wrong, Trainer(DiffusionDPO(), ONE))
    with pytest.raises(ValueError, match="this very rollout"):
        train_step(policy, run, replace(labels(scores), index=torch.arange(8) + 3), Trainer(KTO(), ONE))
    with pytest.raises(ValueError, match="Step Rollout"):
        train_step(policy, replace(run, trajectory=None), in_step_pairs(run), Trainer(SPO(), ONE))


def test_a_step_reward_takes_pairs_of_this_rollout_only():
    _, run, scores = made("sd3")
    pairs = preferences(scores)
    assert pairs_only(pairs, run) is pairs
    with pytest.raises(ValueError, match="a step reward learns from pairs of images, but it was given thumbs up and down"):
        pairs_only(labels(scores), run)
    for wrong, word in (
        (replace(pairs, loser=torch.full_like(pairs.loser, 8)), "they speak of image 9, but the rollout has 8"),
        (replace(pairs, loser=pairs.winner), "2 pairs hold the same image twice"),
        (replace(pairs, loser=pairs.loser.flip(0)), "2 pairs hold images of two different prompts"),
    ):
        with pytest.raises(ValueError, match=word):
            pairs_only(wrong, run)


def test_the_last_image_may_be_named_and_none_beyond_it():
    _, run, _ = made("sd3")
    thumbs = Labels(torch.tensor([7]), torch.tensor([True]), run.index[7:], {})
    check_fits("KTO", Labels, thumbs, run)
    check_fits("KTO", Labels, replace(thumbs, index=torch.tensor([], dtype=torch.int64)), run)
    with pytest.raises(ValueError, match="they speak of image 9, but the rollout has 8"):
        check_fits("KTO", Labels, replace(thumbs, index=torch.tensor([8])), run)


def test_one_image_or_pair_is_enough_to_learn_from():
    none, one = torch.tensor([], dtype=torch.int64), torch.tensor([0])
    for rows, enough in ((none, False), (one, True)):
        state = torch.zeros(len(rows), 1, 1, 1)
        assert teaches(Preferences(rows, rows + 1, rows.double(), rows, {})) is enough
        assert teaches(Labels(rows, rows > 0, rows, {})) is enough
        assert teaches(StepPreferences(rows, rows, state, state, rows.double(), {})) is enough
    for used in ([False, False], [False, True]):
        assert teaches(Advantages(torch.zeros(2), torch.tensor(used), torch.zeros(2), {})) is any(used)


def test_the_curve_shows_the_rewards_mean_and_spread():
    thumbs = Labels(torch.tensor([0]), torch.tensor([True]), torch.tensor([0]), {"failed": 1.0})
    values = torch.tensor([1.0, 3.0, math.nan, 8.0], dtype=torch.float64)
    found = with_reward(thumbs, Scores(values, torch.zeros(4, dtype=torch.int64), {}, {})).stats
    assert found == {"failed": 1.0, "reward_mean": 4.0, "reward_std": pytest.approx(math.sqrt((9 + 1 + 16) / 3))}
    weighed = Scores(values, torch.zeros(4, dtype=torch.int64), {}, {"weight/red": 0.5, "mean": 4.0})
    assert with_reward(thumbs, weighed).stats == {**found, "weight/red": 0.5}
    none = with_reward(thumbs, Scores(values * math.nan, torch.zeros(4, dtype=torch.int64), {}, {})).stats
    assert math.isnan(none["reward_mean"]) and none["reward_std"] == 0
