"""Reward-weighted regression on ComfyUI's real modules."""

from __future__ import annotations

import pytest
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
