"""ReFL: the clean estimate of a late step, the margin, the pretraining term."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.rewards.rules.colour import ColourReward
from posttrain.tests.unit.trainers.through_reward import assert_close, gradient, stepped
from posttrain.trainers import refl
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, backprop_step
from posttrain.trainers.noise.streams import generator
from posttrain.trainers.policy import open_policy
from posttrain.trainers.refl import ReFL
from posttrain.trainers.sampling.rollout import rollout_from_latents
from posttrain.trainers.sampling.settings import Sampling
from small_models import prompts_for, small_vae, trained_policy

FOUR = Sampling(steps=4, width=64, height=64, prompts_per_iteration=2, images_per_prompt=2, batch_size=4)


def test_refl_has_no_gradient_from_its_margin_on():
    policy = trained_policy("sd3")
    low, high = (stepped(policy, "sd3", ReFL(margin=margin))[0] for margin in (-1e4, 1e4))
    assert low.metrics["saturated"] == 1 and low.metrics["grad_norm"] == 0
    assert high.metrics["saturated"] == 0 and high.metrics["grad_norm"] > 0


def test_refl_judges_the_clean_estimate_of_a_random_late_step():
    policy = trained_policy("sd3")
    drawn = {refl._middle(ReFL(), 40, generator(i)) for i in range(300)}
    assert drawn == set(range(30, 40)), "the official 30 to 39 of 40 steps"
    new, _ = stepped(policy, "sd3", ReFL(scale=1.0, margin=1e4, earliest=0.0, latest=0.2))
    assert new.metrics["update_evaluations"] == 2 * 2, "the first step: one call with gradient and none without"
    last, _ = stepped(policy, "sd3", ReFL(scale=1.0, margin=1e4, earliest=0.99))
    assert_close(gradient(last), gradient(stepped(policy, "sd3", DRaFT())[0]))


def test_refls_pretraining_term_lowers_the_error_on_the_given_images():
    policy, prompts = trained_policy("sd3"), prompts_for("sd3")
    data = rollout_from_latents(policy, torch.randn(4, 16, 8, 8), prompts, small_vae("sd3"), 0)
    settings = ReFL(margin=-10.0, pretrain_weight=1.0)  # no gradient from the reward
    errors = []
    for iteration in range(12):
        policy, _ = backprop_step(
            policy,
            prompts,
            small_vae("sd3"),
            ColourReward("brightness"),
            FOUR,
            Trainer(settings, Optimizer(learning_rate=3e-3)),
            data=data,
            iteration=iteration,
        )
        errors.append(policy.metrics["denoising_error"])
    assert sum(errors[-4:]) < sum(errors[:4])


def test_the_step_lies_within_its_part_of_the_way():
    def drawn(total: int, **part: float) -> set[int]:
        return {refl._middle(ReFL(**part), total, generator(i)) for i in range(100)}

    assert drawn(10, earliest=0.2, latest=0.56) == {2, 3, 4, 5}
    assert drawn(10, earliest=0.5, latest=0.5) == {5}, "at least one"
    assert drawn(10, earliest=1.0) == {9}, "the last step is the latest"
    assert drawn(3, earliest=0.0) == {0, 1, 2}


def test_these_draws_stay_as_they_are():
    """A run that is taken up again goes on with the numbers that it would have drawn."""
    assert [refl._middle(ReFL(), 40, generator(i)) for i in range(8)] == [38, 35, 37, 30, 37, 30, 38, 39]


def test_the_pretraining_term_is_the_error_on_images_levels_and_noise_drawn_for_each_micro_batch():
    """Flow: the mean squared distance of the velocity from noise - data. The draws stay as they are."""
    policy, prompts, sampling = trained_policy("sd3"), prompts_for("sd3"), replace(FOUR, batch_size=3, seed=5)
    data = rollout_from_latents(policy, torch.randn(4, 16, 8, 8, generator=generator(1)), prompts, small_vae("sd3"), 0)
    settings = ReFL(margin=-10.0, pretrain_weight=2.0)  # no gradient from the reward
    trainer = Trainer(settings, Optimizer())
    new, _ = backprop_step(
        policy, prompts, small_vae("sd3"), ColourReward("brightness"), sampling, trainer, data=data, iteration=3
    )
    found = []
    with torch.no_grad(), open_policy(policy) as net:
        bank, sigmas = net.to_device(policy.bank), net.sigmas(sampling.scheduler, sampling.steps)
        for start, size in ((0, 3), (3, 1)):
            random = generator(5, 3, start, 24)
            rows = torch.randint(4, (size,), generator=random)
            sigma = sigmas[torch.randint(sampling.steps, (size,), generator=random)]
            noise, share = torch.randn(size, 16, 8, 8, generator=random), sigma[:, None, None, None]
            x = (1 - share) * data.latents[rows] + share * noise
            velocity = (x - net.denoise(x, sigma, prompts, data.index[rows], 1.0, bank)) / share
            found += (velocity - noise + data.latents[rows]).square().mean((1, 2, 3)).tolist()
    assert new.metrics["denoising_error"] == pytest.approx(sum(found) / 4, rel=1e-4)
    assert new.metrics["loss"] == pytest.approx(2 * new.metrics["denoising_error"], rel=1e-5)
