"""Reward-weighted regression on ComfyUI's real modules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.scored_rollouts import scored_rollout
from posttrain.tests.unit.trainers.seen_loss import loss_of, same_loss
from posttrain.trainers import rwr
from posttrain.trainers.engine.renoise import Renoised, noised
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.losses.rwr import softmax_weights
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.policy import open_policy
from posttrain.trainers.rwr import RWR


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


@pytest.mark.parametrize("among", ["each prompt", "all images", "best tenth only"])
def test_the_loss_weighs_each_images_error_by_its_reward(among, monkeypatch):
    """Weights of mean 1 over the images that have a reward; one has none, and those without weight are not evaluated."""
    policy, run, feedback = scored_rollout("sd3")
    rewards = torch.tensor([0.1, 0.5, torch.nan, 0.2, 0.4, 0.9, 0.9, 0.3], dtype=torch.float64)
    feedback = replace(feedback, rewards=rewards)
    share = torch.where(rewards.isfinite(), torch.exp(3 * rewards), 0.0)
    share = {
        "each prompt": torch.cat([3 * share[:4] / share[:4].sum(), 4 * share[4:] / share[4:].sum()]),
        "all images": 7 * share / share.sum(),
        "best tenth only": 3.5 * (rewards == 0.9),
    }[among]
    run = replace(run, batch_size=8)
    evaluate, ((micro,),) = loss_of(rwr, RWR(sharpness=3.0, among=among, levels=1), policy, run, feedback, monkeypatch)
    assert sorted(micro.rows.tolist()) == share.nonzero().flatten().tolist()
    with open_policy(policy) as net:
        question, seen = Renoised(net, run, micro), []

        def by_hand(bank):
            error = question.error(question.ask(bank))
            seen.append(float(error.detach().mean()))
            return (share[micro.rows].float() * error).sum() / 7

        report = same_loss(net, policy.bank, lambda bank: evaluate(net, bank, micro), by_hand)
    assert report == {"denoising_error": pytest.approx(seen[0], rel=1e-4)}
