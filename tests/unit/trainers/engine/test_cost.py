"""The evaluations that are counted before an iteration are those that it makes."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from posttrain.tests.unit.trainers.every_method import RAW, SMALL, settings_of, stepped
from posttrain.tests.unit.trainers.rollouts import made
from posttrain.trainers.drtune import DRTune
from posttrain.trainers.engine.cost import Work, work_of
from posttrain.trainers.lcm import LCM
from posttrain.trainers.methods import METHODS, OWN_IMAGES, Trainer, cost_of
from posttrain.trainers.refl import ReFL
from posttrain.trainers.sampling.settings import BRANCHES, EACH_PROMPT
from posttrain.trainers.spo import SPO
from small_models import trained_policy

# what a method draws is taken at its dearest, so nothing is left to draw here
SET = {DRTune: {"early_stop": 0}, ReFL: {"earliest": 0.6, "latest": 0.6}, LCM: {"teacher_steps": 4, "student_steps": 2}}
SAMPLINGS = {"two updates": (SMALL, 2, 1), "parts and levels": (replace(SMALL, batch_size=2, guidance=1.0), 1, 2),
             "a smaller last part": (replace(SMALL, batch_size=3), 2, 1)}  # fmt: skip


def case(kind: type, name: str, policy):
    sampling, updates, levels = SAMPLINGS[name]
    settings = replace(settings_of(kind, policy), **SET.get(kind, {}))
    if hasattr(settings, "levels"):
        settings = replace(settings, levels=levels)
    return sampling, Trainer(settings, replace(RAW, updates=updates))


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("kind", [kind for kind in METHODS if kind is not SPO], ids=lambda kind: kind.__name__)
def test_what_is_counted_before_is_what_is_made(kind, name):
    """In the second iteration, with the copies of older weights that the first one leaves."""
    policy = trained_policy("sd3")
    sampling, trainer = case(kind, name, policy)
    policy = stepped(kind, policy, sampling, trainer)
    cost = cost_of(policy, trainer, sampling, prompts=2)
    made = stepped(kind, policy, sampling, trainer).metrics
    assert cost.images == 4 and cost.training == made["update_evaluations"] and cost.gradient > 0
    assert cost.sampling == (0 if METHODS[kind].needs == OWN_IMAGES else made["rollout_evaluations"])
    assert f"{cost.sampling + cost.training:,} network evaluations" in cost.words()


@pytest.mark.parametrize("batch, images, replays", [(4, 4, 1), (2, 4, 1), (8, 4, 2), (3, 4, 2), (8, 2, 4), (64, 2, 7)])
def test_where_each_prompt_has_one_random_step_a_batch_is_replayed_at_those_of_its_prompts(batch, images, replays):
    sampling = replace(SMALL, steps=8, window=EACH_PROMPT, batch_size=batch, images_per_prompt=images)
    work = work_of(sampling, 2, 1, own_images=False)
    assert work.random == 7 and work.replays == replays and work.replayed(True) == (2 * work.images * replays,) * 2


def test_spos_pairs_are_asked_once_with_gradient_and_once_of_the_reference():
    policy = trained_policy("sd3")
    sampling, trainer = case(SPO, "parts and levels", policy)
    made = stepped(SPO, policy, sampling, trainer).metrics
    gradient, further = METHODS[SPO].cost(trainer.settings, Work(4, 2, int(made["pairs"]), 3, 2, batch=2))
    assert gradient == further and gradient + further == made["update_evaluations"]


def test_every_method_says_what_it_costs():
    assert all(method.cost is not None for method in METHODS.values())


@pytest.mark.parametrize("batch, replays", [(2, 1), (4, 2), (5, 3), (12, 3)])
def test_branches_are_counted_as_they_are_sampled_and_trained(batch, replays):
    settings = replace(SMALL, steps=6, first_noisy_step=1, noisy_steps=3, window=BRANCHES, images_per_prompt=6, batch_size=batch,
                       guidance=1.0)  # fmt: skip
    policy, run = made("sd3", **{name: getattr(settings, name) for name in asdict(settings)})
    work = work_of(settings, 2, 1, own_images=False)
    assert work.sampling == run.evaluations and work.replays == replays


def test_steps_before_the_first_random_one_are_made_once_for_a_prompts_images():
    sampling = replace(SMALL, steps=8, first_noisy_step=3, noisy_steps=2, same_start=True, images_per_prompt=5)
    work = work_of(sampling, 9, 1, own_images=False)
    assert (work.random, work.shared, work.images) == (2, 3, 10)
    assert work.sampling == 2 * (2 * 3 + 10 * 5)
