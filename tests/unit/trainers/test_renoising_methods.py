"""What the methods that noise finished images anew have in common: evaluations, direction, limits."""

from __future__ import annotations

import pytest
import torch
from posttrain.trainers.awm import AWM
from posttrain.trainers.dgpo import DGPO
from posttrain.trainers.engine.renoise import Renoised, noised, sampled_levels, without_pure_noise
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.policy import open_policy
from posttrain.trainers.rwr import RWR


@pytest.mark.parametrize(
    "settings, evaluations",
    [
        (NFT(kl_weight=0, levels=3), 8 * 3),  # fully on-policy: the old policy's answer is the policy's own
        (NFT(kl_weight=1e-4, levels=3), 8 * 3 * 2),
        (AWM(beta=0, levels=2), 8 * 2),
        (AWM(levels=2), 8 * 2 * 2),
        (DGPO(levels=2), 8 * 2 * 2),
        (RWR(levels=2), 8 * 2),
    ],
)
def test_each_evaluates_the_network_no_more_than_it_needs(case, settings, evaluations):
    policy, run, feedback = case
    new = train_step(policy, run, feedback, Trainer(settings, Optimizer(learning_rate=1e-3)))
    assert new.metrics["update_evaluations"] == evaluations
    assert new.metrics["updates"] == 1 and any(not torch.equal(new.bank[k], policy.bank[k]) for k in new.bank)


@pytest.mark.parametrize("settings", [NFT(levels=2, kl_weight=0), AWM(levels=2, beta=0), DGPO(levels=2)])
def test_a_step_makes_good_images_likelier_than_bad_ones(case, settings):
    """After a step the denoising error falls more on the better half than on the worse."""
    policy, run, feedback = case
    new = train_step(policy, run, feedback, Trainer(settings, Optimizer(learning_rate=3e-3)))
    (micros,) = noised(run, feedback.used, 4, 1, 8, grid=without_pure_noise(sampled_levels(run)))
    changes = torch.zeros(8)
    with open_policy(policy) as net:
        for micro in micros:
            question = Renoised(net, run, micro)
            after, before = (question.error(question.ask(net.to_device(p.bank))) for p in (new, policy))
            changes[micro.rows] += after - before
    best = feedback.values > 0
    assert changes[best].mean() < changes[~best].mean()


@pytest.mark.parametrize(
    "settings, message",
    [(NFT(beta=0), "beta"), (NFT(levels=0), "levels"), (AWM(clip_range=-1), "clip range"), (DGPO(beta=-1), "beta")],
)
def test_settings_out_of_range_are_named(case, settings, message):
    policy, run, feedback = case
    with pytest.raises(ValueError, match=message):
        train_step(policy, run, feedback, Trainer(settings, Optimizer()))
