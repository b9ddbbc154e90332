"""What all train steps share, whichever method they serve."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.rewards.rules.colour import ColourReward
from posttrain.tests.unit.trainers.usual_settings import usual
from posttrain.trainers.awm import AWM, FOLLOWER
from posttrain.trainers.d3po import D3PO
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.update import SKIPPED, Optimizer
from posttrain.trainers.feedback.advantages import Advantages, advantages
from posttrain.trainers.feedback.labels import Labels, labels
from posttrain.trainers.feedback.pairs import Preferences, preferences
from posttrain.trainers.feedback.step_pairs import StepPreferences
from posttrain.trainers.methods import (
    LATENTS,
    METHODS,
    OWN_IMAGES,
    TRAJECTORY,
    Trainer,
    backprop_step,
    goes_through_reward,
    method_of,
    train_step,
)
from posttrain.trainers.nft import NFT, OLD
from posttrain.trainers.policy.value import Policy
from posttrain.trainers.rwr import RWR
from posttrain.trainers.sampling.rollout import Rollout, rollout_from_latents
from posttrain.trainers.sampling.settings import Sampling
from small_models import PlainVAE, prompts_for, small_vae, trained_policy

FROM_LATENTS = [kind for kind, method in METHODS.items() if method.needs == LATENTS]
FEEDBACK = {Advantages: advantages, Preferences: preferences, Labels: labels, None: lambda scores: None}


def feedback_for(kind: type, made: Rollout):
    """Of four images, each better than the one before."""
    return FEEDBACK[METHODS[kind].learns_from](Scores(torch.arange(4.0).double(), made.index, {}, {}))


def stepped(policy: Policy, made: Rollout, kind: type, iteration: int) -> dict[str, torch.Tensor]:
    trainer = Trainer(usual(kind, policy), Optimizer(learning_rate=1e-3))
    return train_step(replace(policy, iteration=iteration), made, feedback_for(kind, made), trainer).bank


@pytest.mark.parametrize("kind", FROM_LATENTS, ids=lambda kind: kind.__name__)
def test_pictures_that_stay_the_same_are_noised_anew_in_each_step(kind):
    """Pictures from a folder or another sampler come with the same iteration for ever; the policy's own count goes on."""
    policy, prompts = trained_policy("sd3"), prompts_for("sd3")
    made = rollout_from_latents(policy, torch.randn(4, 16, 8, 8), prompts, PlainVAE(), 0)
    first, same, later = (stepped(policy, made, kind, iteration) for iteration in (3, 3, 4))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], later[key]) for key in first)


@pytest.mark.parametrize("kind", FROM_LATENTS, ids=lambda kind: kind.__name__)
def test_more_updates_than_what_is_learned_from_fills_are_said(kind):
    policy = trained_policy("sd3")
    made = rollout_from_latents(policy, torch.randn(4, 16, 8, 8), prompts_for("sd3"), PlainVAE(), 0)
    trainer = Trainer(usual(kind, policy), Optimizer(updates=9))
    told = train_step(policy, made, feedback_for(kind, made), trainer).metrics
    left_out = told.get("updates_left_out", 0)
    assert told["updates"] >= 1 and told["updates"] + left_out == 9 and (left_out > 0 or kind is D3PO)  # a step a batch


LEARN_EMPTY = [kind for kind in FROM_LATENTS if hasattr(kind(), "empty_prompts")]


@pytest.mark.parametrize("kind", LEARN_EMPTY, ids=lambda kind: kind.__name__)
def test_a_share_of_the_images_is_learned_with_the_negative_prompt(kind):
    """With all of them it is what training on the negative prompt alone does; with some, something in between."""
    policy, prompts = trained_policy("sd3"), prompts_for("sd3")
    made = rollout_from_latents(policy, torch.randn(4, 16, 8, 8), prompts, PlainVAE(), 0)
    only_negative = replace(made, prompts=replace(prompts, positive=(prompts.negative,) * len(prompts)))

    def bank(made, **settings):
        trainer = Trainer(kind(**settings), Optimizer(learning_rate=1e-3))
        return train_step(policy, made, feedback_for(kind, made), trainer).bank

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


def rated(made: Rollout, *values: float) -> Advantages:
    return advantages(Scores(torch.tensor(values, dtype=torch.float64), made.index, {}, {}))


@pytest.fixture(scope="module")
def case() -> tuple[Policy, Rollout]:
    policy = trained_policy("sd3")
    return policy, rollout_from_latents(policy, torch.randn(4, 16, 8, 8), prompts_for("sd3"), PlainVAE(), 0)


def test_scores_that_all_failed_are_a_fault_and_scores_that_are_equal_are_none(case):
    start, made = case
    policy = start
    for count, values in ((1, [math.nan] * 4), (2, [math.nan] * 4), (2, [0.5] * 4), (3, [math.nan] * 4)):
        policy = train_step(policy, made, rated(made, *values), Trainer(RWR(), Optimizer()))
        fault = int(values[0] != 0.5)
        assert (policy.metrics["updates"], policy.metrics["skipped_updates"]) == (0, fault)
        assert policy.metrics[SKIPPED] == count and policy.metrics["failed"] == 4 * fault
    assert policy.iteration == 4 and all(policy.bank[key] is start.bank[key] for key in start.bank)
    again = train_step(policy, made, rated(made, 1, 2, 3, 4), Trainer(RWR(), Optimizer()))
    assert again.metrics[SKIPPED] == 0 and again.metrics["updates"] == 1 and again.metrics["skipped_updates"] == 0


def test_what_a_rule_remembers_goes_into_the_policys_memory_beside_the_rest(case):
    policy, made = replace(case[0], memory={"other": 1, "rewards": 2}), case[1]
    feedback, trainer = rated(made, 1, 2, 3, 4), Trainer(RWR(), Optimizer())
    kept, new = (train_step(policy, made, replace(feedback, memory=memory), trainer) for memory in (None, {"mean": 3.0}))
    assert kept.memory == policy.memory and new.memory == {"other": 1, "rewards": {"mean": 3.0}}


@pytest.mark.parametrize("settings, kept", [(RWR(), set()), (NFT(levels=1), {OLD}), (AWM(levels=1), {FOLLOWER})])
def test_copies_of_the_weights_that_another_method_moves_are_dropped(case, settings, kept):
    policy, made = case
    copies = {name: {key: value * 0.5 for key, value in policy.bank.items()} for name in (OLD, FOLLOWER, "mine")}
    late = replace(policy, anchors=copies, iteration=100)  # from the start on a copy would be the weights themselves
    new = train_step(late, made, rated(made, 1, 2, 3, 4), Trainer(settings, Optimizer()))
    assert new.anchors.keys() == kept | {"mine"} and new.iteration == 101


@pytest.mark.parametrize("method, guidance", [("", 4.5), ("DiffusionDPO", 1)])
def test_an_open_number_of_the_sampling_is_the_policys_methods_or_else_the_trainers(method, guidance):
    policy = replace(trained_policy("sd3"), method=method)
    sampling = Sampling(steps=2, width=32, height=32, prompts_per_iteration=1, images_per_prompt=1, open=("guidance",))
    trainer = Trainer(DRaFT(), Optimizer(), open=("optimizer.weight_decay",))
    copies = dict.fromkeys((OLD, "mine"), policy.bank)
    new, _ = backprop_step(
        replace(policy, anchors=copies), prompts_for("sd3"), small_vae("sd3"), ColourReward("brightness"), sampling, trainer
    )
    assert new.numbers["method"] == "DRaFT" and new.numbers["numbers"]["sampling.guidance"] == guidance
    assert new.numbers["recommended"] == ["optimizer.weight_decay", "sampling.guidance"]
    assert new.anchors.keys() == {"mine"} and new.iteration == 1


def test_the_numbers_in_use_are_the_steps_own(case):
    policy, made = case[0], replace(case[1], recommended=("guidance",), sampling=Sampling(steps=7, guidance=3.0), left_out=2)
    trainer = Trainer(RWR(), Optimizer(learning_rate=0.125), open=("method.levels",))
    new = train_step(policy, made, rated(made, 1, 2, 3, 4), trainer)
    used = new.numbers["numbers"]
    assert (used["sampling.guidance"], used["sampling.steps"], used["optimizer.learning_rate"]) == (3.0, 7, 0.125)
    assert new.numbers["recommended"] == ["method.levels", "sampling.guidance"] and new.metrics["steps_left_out"] == 2


def test_a_row_of_the_table_holds_a_train_step_a_kind_of_feedback_and_a_need():
    for kind in METHODS:
        trainer = Trainer(kind(), Optimizer())
        method = method_of(trainer)
        assert goes_through_reward(trainer) == (method.needs == OWN_IMAGES)
        assert inspect.isfunction(method.step) and method.step.__name__.startswith("train_")
        assert method.learns_from in {*FEEDBACK, StepPreferences} and method.needs in (TRAJECTORY, LATENTS, OWN_IMAGES)
        assert method.learns_from is None or method.needs != OWN_IMAGES
