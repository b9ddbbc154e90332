"""DRaFT against finite differences and against loops by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Prompt
from posttrain.rewards.rules.colour import ColourReward
from posttrain.tests.unit.trainers.through_reward import (
    SMALL,
    STEPS,
    TOY,
    Smooth,
    assert_close,
    by_hand,
    demo_world,
    dot,
    gradient,
    stepped,
)
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.reward_walk import Course, Look, Walk
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, backprop_step
from posttrain.trainers.noise.streams import generator
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from small_models import prompts_for, small_vae, trained_policy

NOISY = replace(SMALL, transition="flow_sde", noise_level=0.7)


@pytest.mark.parametrize(
    "kind, settings, sampling",
    [
        ("sd15", DRaFT(steps=0), SMALL),
        ("sd3", DRaFT(steps=0), SMALL),
        ("flux", DRaFT(steps=0), SMALL),
        ("sd15", DRaFT(steps=0, kl_weight=50.0), SMALL),
        ("sd3", DRaFT(steps=0, kl_weight=50.0), SMALL),
        ("sd3", DRaFT(steps=0), NOISY),
    ],
)
def test_draft_through_all_steps_equals_finite_differences(kind, settings, sampling):
    """With guidance, so through both of its branches, through random steps too, and through ComfyUI's own decoder."""
    policy = trained_policy(kind, torch.float64)
    new, images = stepped(policy, kind, settings, sampling)
    assert 0 < images.min() and images.max() < 1, "a cut pixel would have another gradient than finite differences"
    grads = gradient(new)
    norm = dot(grads, grads) ** 0.5
    # half along the gradient, half at random: a wrong sign and a wrong size both show
    direction = {
        k: (grads[k] / norm + 0.01 * torch.randn(v.shape, generator=generator(11))).float() for k, v in policy.bank.items()
    }
    losses = []
    for sign in (1, -1):
        bank = {k: v + sign * 2e-3 * direction[k] for k, v in policy.bank.items()}
        losses.append(stepped(replace(policy, bank=bank), kind, settings, sampling)[0].metrics["loss"])
    assert dot(grads, direction) == pytest.approx((losses[0] - losses[1]) / 4e-3, rel=3e-3)


@pytest.mark.parametrize("kind", ["sd15", "sd2_v", "sd3"])
@pytest.mark.parametrize("kept", range(1, STEPS + 1))
def test_draft_k_cuts_the_state_off_before_its_steps(kind, kept):
    """K = T is the whole gradient; for K = 1 what only earlier steps used gives none."""
    policy = trained_policy(kind)
    assert_close(gradient(stepped(policy, kind, DRaFT(steps=kept))[0]), by_hand(policy, kind, kept))


def test_draft_lv_is_the_mean_over_the_last_step_with_several_noises():
    policy, kind = trained_policy("sd3"), "sd3"
    new, _ = stepped(policy, kind, DRaFT(extra_noises=2))
    assert new.metrics["update_evaluations"] == 2 * 2 * (STEPS + 2), "two images, both branches of the guidance"
    course = Course(policy, prompts_for(kind), small_vae(kind), Smooth(), SMALL, 0)
    found = gradient(stepped(policy, kind, DRaFT())[0])
    with open_policy(policy, also_load=[course.vae.patcher]) as net:
        for part in (1, 2):
            bank = net.to_device(policy.bank, train=True)

            def loss_of():
                walk = Walk(course, net, bank, Look(slice(0, 2), part=part))
                with torch.no_grad():
                    walk.go_to(STEPS)
                sigma = walk.sigma(STEPS - 1)
                noised = net.path.add_noise(walk.x, course.fresh_noise(walk.look), sigma)
                return -walk.rewards(walk.denoised(noised, sigma)).mean(), {}

            net.gradients(loss_of, list(bank.values()))
            found = {k: v + bank[k].grad for k, v in found.items()}
    assert_close(gradient(new), {k: v / 3 for k, v in found.items()})


@pytest.mark.parametrize("statistic, gain", [("brightness", 0.03), ("saturation", 0.03)])
def test_draft_1_raises_the_reward_of_the_demo_model(statistic, gain):
    model, prompts, vae = demo_world()
    policy = create_policy(model, Recipe(rank=8))
    trainer, rewards = Trainer(DRaFT(), Optimizer(learning_rate=1e-3)), []
    for iteration in range(20):
        # the same prompts and noise every time, so that the curve has no other reason to rise
        policy, images = backprop_step(policy, prompts, vae, ColourReward(statistic), TOY, trainer, 0)
        rewards.append(policy.metrics["reward_mean"])
    assert rewards[-1] - rewards[0] > gain, rewards
    assert isinstance(prompts.prompts[0], Prompt) and images.shape == (8, 24, 24, 3)


@pytest.mark.parametrize("kind, kept", [("sd15", 2), ("sd3", 1)])
def test_the_drift_is_the_mean_over_the_steps_with_gradient(kind, kept):
    """Both networks' predictions differ by (x0 - reference x0) / sigma."""
    policy, weight = trained_policy(kind), 3.0
    metrics = stepped(policy, kind, DRaFT(steps=kept, kl_weight=weight))[0].metrics
    course, found = Course(policy, prompts_for(kind), small_vae(kind), Smooth(), SMALL, 0), []
    with torch.no_grad(), open_policy(policy) as net:
        walk = Walk(course, net, net.to_device(policy.bank), Look(slice(0, 2)))
        while walk.at < STEPS:
            x0, sigma = walk.denoised(), walk.sigma(walk.at)
            reference = net.denoise(walk.x, sigma, course.prompts, walk.index, SMALL.guidance, None)
            found.append(((x0 - reference) / sigma[:, None, None, None]).double().square().mean())
            walk.move(x0)
    drift = float(torch.stack(found[-kept:]).mean())
    assert drift > 1e-4 and metrics["kl"] == pytest.approx(drift, rel=1e-4)
    assert metrics["loss"] == pytest.approx(weight * drift - metrics["reward_mean"], rel=1e-5)


def test_the_pictures_that_are_kept_are_those_without_extra_noises():
    policy = trained_policy("sd3")
    plain, looked_at_again = (stepped(policy, "sd3", DRaFT(extra_noises=n)) for n in (0, 1))
    assert torch.equal(plain[1], looked_at_again[1])
    assert plain[0].metrics["reward_mean"] == looked_at_again[0].metrics["reward_mean"]
