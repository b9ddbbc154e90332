"""Step rewards: what they learn, measure and refuse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.judges.step_cases import contrast, fresh_policy
from posttrain.trainers.feedback.fits import pairs_only
from posttrain.trainers.feedback.labels import labels
from posttrain.trainers.feedback.pairs import preferences
from posttrain.trainers.judges.step_reward import noised_states, score_latents, train_step_reward
from posttrain.trainers.noise.paths import PATHS


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_it_learns_what_the_pairs_prefer_and_shows_its_accuracy(kind):
    run, scores = contrast(kind)
    pairs, policy = preferences(scores, "all pairs"), fresh_policy(kind)
    reward = train_step_reward(policy, run, lambda path: noised_states(run, pairs, path, 3), 20)
    assert reward.accuracy["all"] > 0.8 and reward.accuracy["little"] > 0.8
    assert reward.pairs == 3 * 8 * 15, "a fifth of the prompts is held out"
    assert "right on prompts that it was not trained on" in reward.summary()
    judged = score_latents(policy, run, reward)
    assert judged.values.shape == scores.values.shape
    right = judged.values[pairs.winner] > judged.values[pairs.loser]
    assert float(right.double().mean()) > 0.85


def test_on_random_preferences_its_accuracy_is_chance():
    run, scores = contrast("sd3", prompts=20)
    random = replace(scores, values=torch.rand(len(scores.values), generator=torch.Generator().manual_seed(0)).double())
    pairs = preferences(random, "all pairs")
    reward = train_step_reward(fresh_policy("sd3"), run, lambda path: noised_states(run, pairs, path, 3), 20)
    assert 0.3 < reward.accuracy["all"] < 0.7


def test_states_of_a_pair_share_noise_and_level_and_every_level_is_met():
    run, scores = contrast("sd3")
    pairs = preferences(scores)
    states = noised_states(run, pairs, PATHS["flow"], 4)
    assert len(states.winner) == 4 * len(pairs.winner)
    assert torch.equal(states.sigma[states.winner], states.sigma[states.loser])
    assert torch.equal(states.index[states.winner], states.index[states.loser])
    share = states.sigma[states.winner].reshape(4, -1)
    assert bool((share.amax(1)[:-1] < share.amin(1)[1:]).all()) and float(share.min()) >= 0.05 and float(share.max()) <= 0.9
    noise = (
        states.x
        - (1 - states.sigma)[:, None, None, None]
        * run.latents[torch.cat([pairs.winner, pairs.loser]).unique()].repeat(4, 1, 1, 1)
    ) / states.sigma[:, None, None, None]
    torch.testing.assert_close(noise[states.winner], noise[states.loser], rtol=1e-3, atol=1e-3)


def test_one_prompt_leaves_nothing_to_measure_on_and_says_so():
    run, scores = contrast("sd3", prompts=1)
    pairs = preferences(scores, "all pairs")
    reward = train_step_reward(fresh_policy("sd3"), run, lambda path: noised_states(run, pairs, path, 2), 2)
    assert math.isnan(reward.accuracy["all"]) and "one prompt only" in reward.summary()


def test_a_step_reward_of_another_model_is_refused():
    run, scores = contrast("sd15")
    pairs = preferences(scores)
    reward = train_step_reward(fresh_policy("sd15"), run, lambda path: noised_states(run, pairs, path, 1), 1)
    with pytest.raises(ValueError, match="trained on another model"):
        score_latents(fresh_policy("sd3"), contrast("sd3")[0], reward)


def test_wrong_input_is_named():
    run, scores = contrast("sd3")
    policy, pairs = fresh_policy("sd3"), preferences(scores)
    with pytest.raises(ValueError, match="rounds"):
        train_step_reward(policy, run, lambda path: noised_states(run, pairs, path, 1), 0)
    with pytest.raises(ValueError, match="levels"):
        train_step_reward(policy, run, lambda path: noised_states(run, pairs, path, 0))
    nothing = preferences(replace(scores, values=torch.zeros_like(scores.values)))
    with pytest.raises(ValueError, match="no pair to train on"):
        train_step_reward(policy, run, lambda path: noised_states(run, nothing, path, 1))
    with pytest.raises(ValueError, match="pairs of images.*Preferences"):
        pairs_only(labels(scores), run)
