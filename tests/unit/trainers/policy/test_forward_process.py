"""Likelihood-free trainers on ComfyUI's real modules: gradients, evaluations, anchors."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.rewards.rules.colour import ColourReward
from posttrain.trainers.awm import AWM
from posttrain.trainers.dgpo import DGPO
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.renoise import Renoised, noised, sampled_levels, without_pure_noise
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.losses.rwr import softmax_weights
from posttrain.trainers.methods import Trainer, backprop_step, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.policy import open_policy
from posttrain.trainers.rwr import RWR
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import PlainVAE, prompts_for, small_vae, trained_policy

SMALL = Sampling(steps=6, width=64, height=64, prompts_per_iteration=2, images_per_prompt=4, batch_size=4,
                 transition="deterministic")


@pytest.fixture(params=["sd15", "sd2_v", "sd3"])
def case(request):
    policy = trained_policy(request.param)
    run = rollout(policy, prompts_for(request.param), PlainVAE(), SMALL, 0)
    scores = Scores(run.images.mean((1, 2, 3)).double(), run.index, {}, {})
    return policy, run, advantages(scores)


@pytest.mark.parametrize("settings, evaluations", [
    (NFT(kl_weight=0, levels=3), 8 * 3),  # fully on-policy: the old policy's answer is the policy's own
    (NFT(kl_weight=1e-4, levels=3), 8 * 3 * 2),
    (AWM(beta=0, levels=2), 8 * 2), (AWM(levels=2), 8 * 2 * 2),
    (DGPO(levels=2), 8 * 2 * 2), (RWR(levels=2), 8 * 2)])
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


def test_rwr_lowers_the_error_of_what_it_weighs(case):
    policy, run, feedback = case
    new = train_step(policy, run, feedback, Trainer(RWR(levels=4, sharpness=200), Optimizer(learning_rate=1e-3)))
    weights = softmax_weights(feedback.rewards, 200, run.index)
    with open_policy(policy) as net:
        (micros,) = noised(run, feedback.used, 4, 1, 8)
        change = 0.0
        for micro in micros:
            question = Renoised(net, run, micro)
            after, before = (question.error(question.ask(net.to_device(p.bank))) for p in (new, policy))
            change += float(((after - before) * weights[micro.rows]).sum())
    assert change < 0


@pytest.mark.parametrize("among, sharpness", [("each prompt", 0.0), ("all images", 0.0), ("best tenth only", 5.0)])
def test_rwrs_loss_is_a_mean_over_all_images_whatever_it_leaves_out(case, among, sharpness):
    """Equal weights of all, or of the best alone: the loss is their plain denoising error, not ten times that."""
    policy, run, feedback = case
    new = train_step(policy, run, feedback, Trainer(RWR(among=among, sharpness=sharpness, levels=2), Optimizer()))
    assert new.metrics["update_evaluations"] == 2 * (1 if among == "best tenth only" else 8)
    assert new.metrics["loss"] == pytest.approx(new.metrics["denoising_error"], rel=1e-5)


def test_nft_gradient_at_the_start_is_advantage_weighted_matching(case):
    """The README of the loss says so; here through the network: NFT with half the advantage halves the gradient."""
    policy, run, feedback = case
    half = replace(feedback, values=feedback.values / 2)
    settings = Trainer(NFT(levels=2, kl_weight=0), Optimizer())
    norms = [train_step(policy, run, f, settings).metrics["grad_norm"] for f in (feedback, half)]
    assert norms[1] == pytest.approx(norms[0] / 2, rel=1e-3)


def test_nft_keeps_the_old_policy_that_samples(case):
    policy, run, feedback = case
    later = replace(policy, iteration=100)
    new = train_step(later, run, feedback, Trainer(NFT(levels=1), Optimizer(learning_rate=1e-2)))
    key = next(iter(new.bank))
    expected = policy.bank[key].lerp(new.bank[key], 0.9)
    torch.testing.assert_close(new.chosen("behaviour")[key], expected)
    assert not torch.equal(new.chosen("behaviour")[key], new.bank[key])


def test_the_policy_that_lags_behind_goes_with_its_trainer():
    """Changing from NFT to another algorithm: from the next iteration on the trained policy samples, so ratios start at 1."""
    policy = trained_policy("sd3")
    run = rollout(policy, prompts_for("sd3"), PlainVAE(), SMALL, 0)
    feedback = advantages(Scores(run.images.mean((1, 2, 3)).double(), run.index, {}, {}))
    lagging = train_step(replace(policy, iteration=300), run, feedback, Trainer(NFT(levels=1), Optimizer(learning_rate=1e-2)))
    assert "old" in lagging.anchors
    random = replace(SMALL, transition="flow_sde", noise_level=0.7, noisy_steps=1)
    found, new = [], lagging
    for iteration in range(2):
        run = rollout(new, prompts_for("sd3"), PlainVAE(), random, iteration)
        feedback = advantages(Scores(run.images.mean((1, 2, 3)).double(), run.index, {}, {}))
        new = train_step(new, run, feedback, Trainer(FlowGRPO(), Optimizer(learning_rate=1e-3)))
        found.append(new.metrics["ratio_largest_change"])
    assert found[0] > 0 and found[1] == 0 and "old" not in new.anchors
    through = Trainer(DRaFT(), Optimizer())
    new, _ = backprop_step(lagging, prompts_for("sd3"), small_vae("sd3"), ColourReward("brightness"), SMALL, through)
    assert "old" not in new.anchors


def test_the_copy_that_awm_is_held_near_goes_with_it():
    policy = trained_policy("sd3")
    run = rollout(policy, prompts_for("sd3"), PlainVAE(), SMALL, 0)
    feedback = advantages(Scores(run.images.mean((1, 2, 3)).double(), run.index, {}, {}))
    held = train_step(replace(policy, iteration=300), run, feedback, Trainer(AWM(levels=1), Optimizer()))
    again = train_step(held, run, feedback, Trainer(AWM(levels=1), Optimizer()))
    other = train_step(held, run, feedback, Trainer(DGPO(levels=1), Optimizer()))
    assert "follower" in held.anchors and "follower" in again.anchors and "follower" not in other.anchors


def test_groups_share_noise_and_level():
    policy = trained_policy("sd3")
    run = rollout(policy, prompts_for("sd3"), PlainVAE(), SMALL, 0)
    (micros,) = noised(run, torch.ones(8, dtype=torch.bool), 2, 1, 4, by_group=True)
    for micro in micros:
        assert len(micro.rows) == 4 and len(run.index[micro.rows].unique()) == 1
        assert torch.equal(micro.noise[0], micro.noise[3]) and len(micro.sigma.unique()) == 1


@pytest.mark.parametrize("settings, message", [(NFT(beta=0), "beta"), (NFT(levels=0), "levels"),
                                               (AWM(clip_range=-1), "clip range"), (DGPO(beta=-1), "beta")])
def test_settings_out_of_range_are_named(case, settings, message):
    policy, run, feedback = case
    with pytest.raises(ValueError, match=message):
        train_step(policy, run, feedback, Trainer(settings, Optimizer()))
