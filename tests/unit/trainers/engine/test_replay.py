"""Replaying a trajectory: its log-probabilities and its first gradient."""

from __future__ import annotations

import pytest
import torch
from posttrain.tests.unit.trainers.rollouts import feedback, made
from posttrain.trainers.engine.replay import replay, steps_of
from posttrain.trainers.noise.transitions import TRANSITIONS, log_prob
from posttrain.trainers.policy import open_policy
from small_models import ARCHITECTURES


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
