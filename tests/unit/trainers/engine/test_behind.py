"""Images that were drawn while the policy was trained: every trainer takes them for what they are, or refuses them by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.every_method import RAW, SMALL, rolled, settings_of
from posttrain.trainers.engine.behind import DATA, OLD_POLICY, RATIO
from posttrain.trainers.methods import METHODS, OWN_IMAGES, Trainer, name_of, train_step
from posttrain.trainers.policy.value import BEFORE
from posttrain.trainers.sampling.rollout import Behind
from small_models import trained_policy

NOW = trained_policy("sd3")
NOISE = torch.Generator().manual_seed(5)
SAMPLER = replace(NOW, bank={key: value + 0.02 * torch.randn(value.shape, generator=NOISE) for key, value in NOW.bank.items()})
OTHER = {key: -value for key, value in NOW.bank.items()}


def takes(*how: str) -> list[type]:
    return [kind for kind, method in METHODS.items() if method.behind in how]


def step(kind: type, behind: Behind | None, policy=NOW, images_of=SAMPLER):
    """A step of ``policy`` on images that another one has sampled."""
    _, made, feedback, trainer = rolled(kind, images_of, SMALL, Trainer(settings_of(kind, policy), RAW))
    return train_step(policy, replace(made, behind=behind), feedback, trainer)


def same(first, second) -> bool:
    return all(torch.equal(value, second.bank[key]) for key, value in first.bank.items())


@pytest.mark.parametrize("kind", takes(RATIO))
def test_a_ratio_is_to_the_policy_that_sampled(kind):
    late = step(kind, Behind(1, SAMPLER.bank))
    on_policy = step(kind, None, policy=SAMPLER)
    assert late.metrics["ratio_largest_change"] > 100 * on_policy.metrics["ratio_largest_change"] >= 0
    assert late.metrics["iterations_behind"] == 1 and "iterations_behind" not in on_policy.metrics


@pytest.mark.parametrize("kind", takes(OLD_POLICY))
def test_without_likelihoods_what_sampled_is_the_old_policy(kind):
    sampled = step(kind, Behind(1, SAMPLER.bank))
    assert not same(sampled, step(kind, Behind(1, OTHER))) and sampled.metrics["iterations_behind"] == 1
    assert not same(sampled, step(kind, None))  # which takes the policy itself for the old one
    first = step(kind, Behind(0, NOW.bank))
    assert same(first, step(kind, None)) and first.metrics["iterations_behind"] == 0


@pytest.mark.parametrize("kind", takes(DATA))
def test_to_others_images_are_data_whoever_has_made_them(kind):
    late = step(kind, Behind(1, SAMPLER.bank))
    assert same(late, step(kind, None)) and not same(late, NOW) and late.metrics["iterations_behind"] == 1


@pytest.mark.parametrize("kind", [kind for kind in takes("") if METHODS[kind].needs != OWN_IMAGES])
def test_the_rest_refuse_them_by_name(kind):
    name = name_of(Trainer(settings_of(kind, NOW), RAW))
    for behind in (Behind(0, NOW.bank), Behind(1, SAMPLER.bank)):
        with pytest.raises(ValueError, match=f"trainer: {name} learns rightly only .* draw_images of Other Computers"):
            step(kind, behind)


def test_those_through_the_reward_take_no_rollout_at_all():
    assert {METHODS[kind].needs for kind in takes("")} >= {OWN_IMAGES}
    assert not [kind for kind in takes(RATIO, OLD_POLICY, DATA) if METHODS[kind].needs == OWN_IMAGES]
    assert len(takes(RATIO)) == 3 and len(takes(OLD_POLICY)) == 3


def test_the_policy_carries_the_weights_that_sample_for_the_next_step_also_through_a_checkpoint():
    (kind,) = takes(OLD_POLICY)[:1]
    new = step(kind, Behind(1, SAMPLER.bank))
    assert all(torch.equal(value, NOW.bank[key]) for key, value in new.anchors[BEFORE].items())
    again = NOW.with_state(*new.state())
    assert all(torch.equal(value, again.anchors[BEFORE][key]) for key, value in NOW.bank.items())
    assert BEFORE not in step(kind, None, policy=new).anchors  # on policy again
