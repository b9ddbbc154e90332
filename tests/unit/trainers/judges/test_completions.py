"""What a half-drawn image is worth: the scores of its completions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import score
from posttrain.tests.unit.trainers.judges.step_cases import SMALL, Brightness
from posttrain.trainers.judges.completions import compared_states, state_values
from posttrain.trainers.judges.step_reward import train_step_reward
from posttrain.trainers.sampling.rollout import rollout
from small_models import SIZE, PlainVAE, prompts_for, trained_policy


def made(kind: str, policy=None, **settings):
    policy = policy or trained_policy(kind)
    return policy, rollout(policy, prompts_for(kind), PlainVAE(), replace(SMALL, **settings), 0)


def test_the_last_random_state_is_worth_what_its_image_scores():
    """From there on nothing is random, so its completion is the rollout's own image."""
    policy, run = made("sd3")
    values = state_values(policy, run, PlainVAE(), Brightness(), 2)
    assert values.shape == (8, 3)
    torch.testing.assert_close(
        values[:, -1], score(Brightness(), run.images, run.prompts_of_samples(), run.index).values, rtol=1e-5, atol=1e-5
    )


def test_completions_are_random_and_their_mean_is_the_value():
    policy, run = made("sd3")
    one, two = (state_values(policy, run, PlainVAE(), Brightness(), count) for count in (1, 2))
    assert not torch.allclose(one[:, 0], two[:, 0], atol=1e-6) and torch.allclose(one[:, -1], two[:, -1])
    assert torch.equal(one, state_values(policy, run, PlainVAE(), Brightness(), 1)), "the same seeds, the same completions"
    with pytest.raises(ValueError, match="completions"):
        state_values(policy, run, PlainVAE(), Brightness(), 0)
    with pytest.raises(ValueError, match="no step was random"):
        state_values(policy, replace(run, trajectory=None), PlainVAE(), Brightness(), 1)


def test_states_are_compared_after_the_same_step_of_the_same_prompt():
    policy, run = made("sd3")
    values = state_values(policy, run, PlainVAE(), Brightness(), 1)
    states = compared_states(run, values)
    assert len(states.winner) == 2 * 3 * 6 and states.x.shape == (24, *SIZE["sd3"])
    assert torch.equal(states.sigma[states.winner], states.sigma[states.loser])
    assert torch.equal(states.index[states.winner], states.index[states.loser])
    assert bool((values.flatten()[states.winner] > values.flatten()[states.loser]).all())
    assert torch.equal(states.x[1], run.trajectory.states[0, 2]) and states.sigma[1] == run.trajectory.sigmas[2]
    reward = train_step_reward(policy, run, lambda path: states, 2)
    assert reward.pairs == 18
