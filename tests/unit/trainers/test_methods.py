"""What all train steps share, whichever method they serve."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import Advantages, advantages
from posttrain.trainers.feedback.labels import Labels, labels
from posttrain.trainers.feedback.pairs import Preferences, preferences
from posttrain.trainers.methods import LATENTS, METHODS, Trainer, train_step
from posttrain.trainers.policy.value import Policy
from posttrain.trainers.sampling.rollout import Rollout, rollout_from_latents
from small_models import PlainVAE, prompts_for, trained_policy

FROM_LATENTS = [kind for kind, method in METHODS.items() if method.needs == LATENTS]
FEEDBACK = {Advantages: advantages, Preferences: preferences, Labels: labels, None: lambda scores: None}


def stepped(policy: Policy, made: Rollout, kind: type, iteration: int) -> dict[str, torch.Tensor]:
    scores = Scores(torch.arange(4.0).double(), made.index, {}, {})
    feedback = FEEDBACK[METHODS[kind].learns_from](scores)
    trainer = Trainer(kind(), Optimizer(learning_rate=1e-3))
    return train_step(replace(policy, iteration=iteration), made, feedback, trainer).bank


@pytest.mark.parametrize("kind", FROM_LATENTS, ids=lambda kind: kind.__name__)
def test_pictures_that_stay_the_same_are_noised_anew_in_each_step(kind):
    """Pictures from a folder or another sampler come with the same iteration for ever; the policy's own count goes on."""
    policy, prompts = trained_policy("sd3"), prompts_for("sd3")
    made = rollout_from_latents(policy, torch.randn(4, 16, 8, 8), prompts, PlainVAE(), 0)
    first, same, later = (stepped(policy, made, kind, iteration) for iteration in (3, 3, 4))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], later[key]) for key in first)
