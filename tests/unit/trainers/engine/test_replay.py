"""Replaying a trajectory: its log-probabilities and its first gradient."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from posttrain.tests.unit.trainers.rollouts import feedback, made
from posttrain.tests.unit.trainers.steps_by_hand import PLAIN, parts_of, stepped
from posttrain.trainers.engine.replay import replay, steps_of, train_on_trajectory
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.noise.streams import generator
from posttrain.trainers.noise.transitions import TRANSITIONS, log_prob
from posttrain.trainers.policy import open_policy
from small_models import ARCHITECTURES, trained_policy


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_replaying_a_trajectory_gives_its_log_probabilities(kind, guidance):
    policy, run = made(kind, guidance=guidance)
    (steps,) = steps_of(run, feedback(run), 1)
    assert len(steps) == run.trajectory.steps * 2
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank)
        for micro in steps:
            now = replay(net, bank, run, micro)
            again = log_prob(
                run.trajectory.states[micro.rows, micro.step + 1], now, TRANSITIONS[run.trajectory.transition].form
            )
            assert torch.equal(again, run.trajectory.log_probs[micro.rows, micro.step])


@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux"])
def test_the_first_ratio_is_one_and_its_gradient_is_reinforce(kind):
    policy, run = made(kind)
    feed = feedback(run)
    (steps,) = steps_of(run, feed, 1)
    micro = steps[0]
    with open_policy(policy) as net:

        def log_probs(bank):
            now = replay(net, bank, run, micro)
            return log_prob(run.trajectory.states[micro.rows, micro.step + 1], now)

        advantage = feed.values[micro.rows].float()
        old = run.trajectory.log_probs[micro.rows, micro.step]
        found = []
        for loss_of in (
            lambda lp: torch.maximum(
                -advantage * (lp - old).exp(), -advantage * (lp - old).exp().clamp(1 - 1e-4, 1 + 1e-4)
            ).mean(),
            lambda lp: -(advantage * lp).mean(),
        ):
            bank = net.to_device(policy.bank, train=True)
            ratios = []

            def closure():
                lp = log_probs(bank)
                ratios.append((lp - old).exp())
                return loss_of(lp), {}

            net.gradients(closure, list(bank.values()))
            assert torch.equal(ratios[-1], torch.ones_like(old)), "nothing was updated: the ratio is exactly 1"
            found.append({k: v.grad for k, v in bank.items()})
    for key in found[0]:
        torch.testing.assert_close(found[0][key], found[1][key], rtol=1e-5, atol=1e-9)


def test_the_order_of_the_batches_stays_as_it_is():
    """A run that is taken up again goes on in the order that it would have had."""
    run = replace(made("sd3")[1], batch_size=1, iteration=3, seeds=torch.arange(11, 19))
    (micros,) = steps_of(run, feedback(run), 1)
    expected = torch.randperm(8, generator=generator(3, 11, 5)).tolist()
    assert [(micro.rows.start, micro.step) for micro in micros] == [(at, step) for at in expected for step in range(3)]


def test_the_first_micro_batch_of_each_update_is_watched():
    run = made("sd3", batch_size=2)[1]
    updates = steps_of(run, feedback(run), 2)
    assert [[micro.watched for micro in micros] for micros in updates] == [[True, False, False, False, False, False]] * 2


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_it_reports_how_far_the_steps_have_moved(beta):
    """Of each micro-batch the mean ratio, the largest change and the share outside; the KL where it was measured."""
    policy, run = trained_policy("sd3", scale=0.1), made("sd3")[1]
    feed = feedback(run)
    (micros,) = steps_of(run, feed, 1)
    new = train_step(policy, run, feed, Trainer(FlowGRPO(clip_range=0.01, beta=beta), PLAIN))
    with open_policy(policy) as net, torch.no_grad():
        bank = net.to_device(policy.bank)
        each = feed.values[:, None].expand(-1, 3)
        found = {(int(rows[0]), step): stepped(net, bank, run, each, rows, step) for rows, step in parts_of(run)}
    ratios = [(step.log_prob - step.old_log_prob).exp() for step in found.values()]
    measured = found.values() if beta else [found[micros[0].rows.start, micros[0].step]]
    expected = {
        "ratio_mean": sum(float(ratio.mean()) for ratio in ratios) / 6,
        "ratio_largest_change": sum(float((ratio - 1).abs().max()) for ratio in ratios) / 6,
        "clip_fraction": sum(float(((ratio - 1).abs() > 0.01).float().mean()) for ratio in ratios) / 6,
        "kl": sum(float(step.kl.mean()) for step in measured) / len(measured),
    }
    assert {name: new.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-3)


def test_a_loss_without_clipping_reports_none():
    policy, run = made("sd3", noisy_steps=1)

    def loss_of(now):
        return SimpleNamespace(loss=-(now.advantage * now.log_prob).mean(), ratio=torch.ones(len(now.advantage)))

    new = train_on_trajectory(policy, run, feedback(run), PLAIN, loss_of, beta=0.0, watch_kl=False, progress=None)
    assert new.metrics["clip_fraction"] == 0.0 and new.metrics["updates"] == 1
