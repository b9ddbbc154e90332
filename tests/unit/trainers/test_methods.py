"""What all train steps share, whichever method they serve."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.trainers.d3po import D3PO
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


LEARN_EMPTY = [kind for kind in FROM_LATENTS if hasattr(kind(), "empty_prompts")]


@pytest.mark.parametrize("kind", LEARN_EMPTY, ids=lambda kind: kind.__name__)
def test_a_share_of_the_images_is_learned_with_the_negative_prompt(kind):
    """With all of them it is what training on the negative prompt alone does; with some, something in between."""
    policy, prompts = trained_policy("sd3"), prompts_for("sd3")
    made = rollout_from_latents(policy, torch.randn(4, 16, 8, 8), prompts, PlainVAE(), 0)
    only_negative = replace(made, prompts=replace(prompts, positive=(prompts.negative,) * len(prompts)))

    def bank(made, **settings):
        scores = Scores(torch.arange(4.0).double(), made.index, {}, {})
        trainer = Trainer(kind(**settings), Optimizer(learning_rate=1e-3))
        return train_step(policy, made, FEEDBACK[METHODS[kind].learns_from](scores), trainer).bank

    def same(first, second):
        return all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)

    none, some, nearly_all, negative = (
        bank(made),
        bank(made, empty_prompts=0.5),
        bank(made, empty_prompts=1 - 1e-9),
        bank(only_negative),
    )
    assert same(nearly_all, negative) and not same(none, negative)
    assert not same(some, none) and not same(some, negative)
    without = replace(made, prompts=replace(prompts, negative=None))
    with pytest.raises(ValueError, match="^empty prompts: .* none is encoded; encode the prompts with a negative prompt"):
        bank(without, empty_prompts=0.1)


def test_every_trainer_of_pairs_and_thumbs_of_finished_images_can_learn_without_prompts():
    wanted = {kind for kind in FROM_LATENTS if METHODS[kind].learns_from in (Preferences, Labels)}
    assert set(LEARN_EMPTY) == wanted - {D3PO}  # D3PO learns from steps, whose likelihood belongs to the prompt
