"""SRPO: the known noise taken off, the relative reward, and that both of its looks push the same way."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest
import torch
from posttrain.rewards.rules.colour import ColourReward
from posttrain.tests.unit.trainers.through_reward import Wording
from posttrain.trainers import srpo
from posttrain.trainers.engine.reward_walk import Course, Look, Walk
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.losses.srpo import relative_reward
from posttrain.trainers.methods import Trainer, backprop_step
from posttrain.trainers.noise.paths import EPS, FLOW, V
from posttrain.trainers.noise.streams import generator
from posttrain.trainers.policy import open_policy
from posttrain.trainers.sampling.settings import Sampling
from posttrain.trainers.srpo import DENOISING, INVERSION, SRPO, aligned, extra_weight
from small_models import prompts_for, small_vae, trained_policy

SMALL = Sampling(steps=5, width=64, height=64, prompts_per_iteration=2, images_per_prompt=2, batch_size=2)


def draws(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


@pytest.mark.parametrize("path, levels", [(FLOW, (0.9, 0.8)), (FLOW, (0.99, 0.5)), (EPS, (9.0, 4.0)), (V, (3.0, 0.5))])
@pytest.mark.parametrize("upwards", [False, True])
def test_a_perfect_network_gives_the_image_back(path, levels, upwards):
    x0, noise = draws(2, 3, 4, 4), draws(2, 3, 4, 4, seed=1)
    sigma, sigma_next = (torch.full((2,), s, dtype=torch.float64) for s in (levels[::-1] if upwards else levels))
    found = aligned(path, lambda x, sigma: path.x0(x, path.target(x0, noise, sigma), sigma), x0, noise, sigma, sigma_next)
    torch.testing.assert_close(found, x0)


def test_both_looks_push_the_prediction_the_same_way():
    """A step up in noise works backwards; with the wordings swapped the gradient is right again."""
    x0, noise, signs = draws(1, 3, 4, 4), draws(1, 3, 4, 4, seed=1), []
    for levels, sign in (((0.8, 0.7), 1.0), ((0.7, 0.8), -1.0)):
        error = torch.zeros((), dtype=torch.float64, requires_grad=True)
        sigma, sigma_next = (torch.tensor([s], dtype=torch.float64) for s in levels)
        found = aligned(FLOW, lambda x, s: FLOW.x0(x, FLOW.target(x0, noise, s) + error, s), x0, noise, sigma, sigma_next)
        (sign * found.mean()).backward()
        signs.append(float(error.grad) < 0)
    assert signs == [True, True]


def test_scores_of_two_wordings_stand_for_features():
    image, text, control = (torch.nn.functional.normalize(draws(4, 8, seed=s), dim=1) for s in range(3))
    k = draws(4, seed=3)
    by_scores = relative_reward(torch.ones(4, 1), (image * text).sum(1, True), (image * control).sum(1, True), k)
    torch.testing.assert_close(by_scores, relative_reward(image, text, control, k))


def test_the_wanted_wording_weighs_more_at_high_noise_and_the_unwanted_one_at_low():
    """Official: discount_pos 0.1 to 0.25 and discount_inv 0.3 to 0.01, told off from the least noisy level of the range on."""
    settings = SRPO(earliest=0.1, latest=0.5)
    found = [[extra_weight(part, settings, place) for place in (0.5, 0.3, 0.1)] for part in (DENOISING, INVERSION)]
    assert found[0] == pytest.approx([0.1, 0.175, 0.25]) and found[1] == pytest.approx([0.3, 0.155, 0.01])
    assert extra_weight(DENOISING, SRPO(earliest=0.3, latest=0.3), 0.3) == pytest.approx(0.1), "a single level"


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_a_step_follows_the_wanted_wording(kind):
    policy, prompts, vae = trained_policy(kind), prompts_for(kind), small_vae(kind)
    changes = []
    for wanted, unwanted in (("light", "dark"), ("dark", "light")):
        trainer = Trainer(SRPO(wanted, unwanted, threshold=10.0), Optimizer(learning_rate=1e-3))
        new, images = backprop_step(policy, prompts, vae, Wording(), SMALL, trainer)
        again = backprop_step(new, prompts, vae, Wording(), SMALL, trainer)[1]
        changes.append(float((again - images).mean()))
        assert new.metrics["update_evaluations"] == 4 * (5 + 2) and new.metrics["saturated"] == 0
    assert changes[0] > 0 > changes[1]


def test_each_look_alone_follows_the_wanted_wording():
    policy, settings = trained_policy("sd3"), SRPO("light", "dark", threshold=10.0)
    course = Course(policy, prompts_for("sd3"), small_vae("sd3"), Wording(), SMALL, 0)
    found = []
    with open_policy(policy, also_load=[course.vae.patcher]) as net:
        for part in (DENOISING, INVERSION):
            bank = net.to_device(policy.bank, train=True)

            def loss_of():
                walk = Walk(course, net, bank, Look(slice(0, 2), part=part))
                with torch.no_grad():
                    walk.go_to(5)
                high, low = (srpo._level(walk, p) for p in (0.4, 0.5))
                levels = (high, low) if part == DENOISING else (low, high)
                x0 = aligned(net.path, walk.denoised, walk.x, walk.noise, *levels)
                return -srpo._relative(walk, settings, x0, 0.2).mean(), {}

            net.gradients(loss_of, list(bank.values()))
            found.append(torch.cat([v.grad.flatten() for v in bank.values()]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.5


def test_levels_stay_where_an_image_can_be_recovered():
    policy = trained_policy("sd3")
    course = Course(policy, prompts_for("sd3"), small_vae("sd3"), Wording(), SMALL, 0)
    with open_policy(policy) as net:
        walk = Walk(course, net, net.to_device(policy.bank), Look(slice(0, 2)))
        levels = [float(srpo._level(walk, p)[0]) for p in (0.0, 0.1, 0.3, 0.5, 0.6, 0.99)]
        steps = [float(s) for s in net.sigmas("simple", 5)]
    assert levels[0] == pytest.approx(0.99) and levels == sorted(levels, reverse=True) and levels[-1] > 0
    assert levels[4] == pytest.approx(steps[3], rel=1e-4), "0.6 of 5 steps is the fourth level"


@pytest.mark.parametrize(
    "settings, reward, words",
    [
        (SRPO(), ColourReward("brightness"), "looks at the image alone"),
        (SRPO("same", " same "), Wording(), "are the same"),
        (SRPO(latest=0.95), Wording(), "below 1"),
        (SRPO(earliest=0.6), Wording(), "earliest"),
        (SRPO(length=0.0), Wording(), "length"),
    ],
)
def test_wrong_settings_are_named(settings, reward, words):
    policy = trained_policy("sd3")
    with pytest.raises(ValueError, match=words):
        backprop_step(policy, prompts_for("sd3"), small_vae("sd3"), reward, SMALL, Trainer(settings, Optimizer()))


def test_relative_rewards_beyond_the_threshold_give_no_gradient():
    policy, settings = trained_policy("sd3"), SRPO("light", "dark", threshold=-10.0)
    new, _ = backprop_step(
        policy, prompts_for("sd3"), small_vae("sd3"), Wording(), replace(SMALL, steps=3), Trainer(settings, Optimizer())
    )
    assert new.metrics["saturated"] == 1 and new.metrics["grad_norm"] == 0


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
def test_the_loss_is_that_of_two_steps_from_known_noise(kind):
    """By hand: noise the image, take Euler's step down or up, take the noise off; the reward of a mean m is then (2 + k) m when
    denoising and, with the wordings swapped, -(2 + k) m in the inversion."""
    policy, threshold = trained_policy(kind), 10.0
    settings, sampling = (
        SRPO("light", "dark", earliest=0.2, latest=0.5, threshold=threshold),
        replace(SMALL, images_per_prompt=1),
    )
    prompts, vae = prompts_for(kind), small_vae(kind)
    new, images = backprop_step(policy, prompts, vae, Wording(), sampling, Trainer(settings, Optimizer()), 2)
    course = Course(policy, prompts, vae, Wording(), sampling, 2)
    with torch.no_grad(), open_policy(policy, also_load=[vae.patcher]) as net:
        walk = Walk(course, net, net.to_device(policy.bank), Look(slice(0, 2)))
        walk.go_to(5)
        finished, flow = walk.x, net.path.name == "flow"
        torch.testing.assert_close(walk.images(finished), images)
        sigmas, place = walk.plan.sigmas.tolist(), srpo._place(settings, course.draw(walk.look))
        high, low = (float(numpy.interp(5 * p, range(6), sigmas)) for p in (place, place + 0.1))
        rewards = []
        for sigma, sigma_next, sign, k in (
            (high, low, 1, 0.1 + 0.15 * (0.5 - place) / 0.3),
            (low, high, -1, 0.3 - 0.29 * (0.5 - place) / 0.3),
        ):
            x = (1 - sigma if flow else 1) * finished + sigma * walk.noise
            x0 = walk.denoised(x, torch.full((2,), sigma))
            x = x + (sigma_next - sigma) * (x - x0) / sigma
            clean = (x - sigma_next * walk.noise) / (1 - sigma_next if flow else 1)
            rewards.append(sign * (2 + k) * walk.images(clean).mean((1, 2, 3)))
    assert new.metrics["relative_reward"] == pytest.approx(float(rewards[0].mean()), rel=1e-4)
    assert new.metrics["loss"] == pytest.approx(threshold - float(torch.cat(rewards).mean()), rel=1e-4)


def test_a_place_is_anywhere_between_the_earliest_and_the_latest():
    places = [srpo._place(SRPO(earliest=0.1, latest=0.5), generator(i)) for i in range(300)]
    assert 0.1 <= min(places) < 0.12 and 0.48 < max(places) <= 0.5
    assert sum(place < 0.3 for place in places) == pytest.approx(150, abs=30)


def test_the_end_of_the_way_is_the_samplers_last_level():
    policy = trained_policy("sd15")
    course = Course(policy, prompts_for("sd15"), small_vae("sd15"), Wording(), SMALL, 0)
    with open_policy(policy) as net:
        walk = Walk(course, net, net.to_device(policy.bank), Look(slice(0, 3)))
        assert srpo._level(walk, 1.0).tolist() == pytest.approx([0.0] * 3, abs=1e-5)
        assert srpo._level(walk, 0.0).tolist() == [float(walk.plan.sigmas[0])] * 3, "flow models alone start below 1"
