"""DiffusionNFT on ComfyUI's real modules: its first gradient and the policies it keeps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.rewards.rules.colour import ColourReward
from posttrain.tests.unit.trainers.scored_rollouts import SMALL
from posttrain.tests.unit.trainers.seen_loss import loss_of, moved, same_loss
from posttrain.trainers import nft
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.renoise import Renoised
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import Trainer, backprop_step, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.policy import open_policy
from posttrain.trainers.sampling.rollout import rollout
from small_models import PlainVAE, prompts_for, small_vae, trained_policy


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


@pytest.mark.parametrize("first, lagging", [(True, False), (False, False), (True, True)])
def test_the_loss_draws_one_mirrored_policy_to_good_images_and_one_to_bad_ones(case, monkeypatch, first, lagging):
    """With r = A / 10 + 1/2 and an old policy that is another one but in the first update of one that does not lag."""
    policy, run, feedback = case
    old, now = moved(policy.bank, 1) if lagging else policy.bank, moved(policy.bank, 2)
    policy = replace(policy, anchors={"old": old} if lagging else {})
    settings = NFT(beta=0.4, kl_weight=0.5, levels=1)
    evaluate, ((micro, *_),) = loss_of(nft, settings, policy, run, feedback, monkeypatch)
    micro, seen = replace(micro, first=first), []
    r = feedback.values[micro.rows].float() / 10 + 0.5
    with open_policy(policy) as net:
        question = Renoised(net, run, micro)
        far, past = question.ask_quietly(None), question.ask_quietly(net.to_device(old))

        def distance(x0):
            apart = x0 - run.latents[micro.rows]
            return apart.square().mean((1, 2, 3)) / apart.detach().abs().mean((1, 2, 3))

        def by_hand(bank):
            x0 = question.ask(bank)
            was = x0.detach() if first and not lagging else past
            good, bad = distance(was + 0.4 * (x0 - was)), distance(was - 0.4 * (x0 - was))
            policy_loss = (5 / 0.4 * (r * good + (1 - r) * bad)).mean()
            kl = (question.prediction(x0) - question.prediction(far)).square().mean()
            seen.append((float(policy_loss.detach()), float(kl.detach())))
            return policy_loss + 0.5 * kl

        report = same_loss(net, now, lambda bank: evaluate(net, bank, micro), by_hand)
    assert (report["policy_loss"], report["kl"]) == pytest.approx(seen[0], rel=1e-4)


@pytest.mark.parametrize("iteration, decay", [(5, 0.0), (30, 0.04), (90, 0.1)])
def test_the_policy_that_samples_follows_as_its_settings_say(iteration, decay):
    policy = trained_policy("sd3")
    run = rollout(policy, prompts_for("sd3"), PlainVAE(), replace(SMALL, steps=3), 0)
    feedback = advantages(Scores(torch.arange(8.0).double(), run.index, {}, {}))
    trainer = Trainer(NFT(levels=1, old_start=10, old_rate=2e-3, old_ceiling=0.1), Optimizer(learning_rate=1e-2))
    start = moved(policy.bank, 1)
    new = train_step(replace(policy, iteration=iteration, anchors={"old": start}), run, feedback, trainer)
    assert ("old" in new.anchors) == (decay > 0)
    for key, value in new.chosen("behaviour").items():
        torch.testing.assert_close(value, decay * start[key] + (1 - decay) * new.bank[key], rtol=1e-4, atol=1e-6)
