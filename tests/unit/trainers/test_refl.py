"""ReFL: the clean estimate of a late step, the margin, the pretraining term."""

from __future__ import annotations

import torch
from posttrain.rewards.rules.colour import ColourReward
from posttrain.tests.unit.trainers.through_reward import assert_close, gradient, stepped
from posttrain.trainers import refl
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, backprop_step
from posttrain.trainers.noise.streams import generator
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
