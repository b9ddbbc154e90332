"""Diffusion-DPO on ComfyUI's real modules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.preference_cases import KINDS, ONE, errors, fresh_policy, made, trap
from posttrain.trainers.diffusion_dpo import DiffusionDPO, train_dpo
from posttrain.trainers.engine.renoise import paired
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.pairs import Preferences, preferences
from posttrain.trainers.methods import Trainer, train_step


@pytest.mark.parametrize("kind", KINDS)
def test_swapping_winner_and_loser_turns_the_first_step_round(kind):
    policy, run, scores = made(kind, fresh_policy(kind))
    pairs = preferences(scores)
    turned = replace(pairs, winner=pairs.loser, loser=pairs.winner)
    # the same noise for both, whatever the order of its seeds
    run = replace(run, seeds=torch.zeros_like(run.seeds))
    moments = []
    for chosen in (pairs, turned):
        new = train_step(policy, run, chosen, Trainer(DiffusionDPO(), Optimizer(max_grad_norm=0)))
        moments.append(torch.cat([v.flatten() for k, v in sorted(new.optimizer.items()) if k.endswith("exp_avg")]))
    torch.testing.assert_close(moments[0], -moments[1], rtol=1e-3, atol=1e-6 * float(moments[0].abs().max()))


def test_the_safeguard_keeps_winners_through_the_network():
    policy, run, pairs = trap("sd3")
    changes = []
    for safeguard in (None, 0.9):
        new = policy
        for _ in range(3):
            new = train_step(new, run, pairs, Trainer(DiffusionDPO(safeguard=safeguard), Optimizer(learning_rate=1e-3)))
        changes.append(float((errors(policy, run, pairs, new) - errors(policy, run, pairs, policy))[0].mean()))
    assert changes[1] < changes[0] and changes[0] > 0, changes


def test_a_broken_reward_leaves_a_usable_policy():
    policy, run, scores = made("sd3")
    some = replace(scores, values=scores.values.where(torch.arange(8) > 1, torch.nan))
    pairs = preferences(some)
    assert isinstance(pairs, Preferences) and pairs.stats["failed"] == 2
    new = train_step(policy, run, pairs, Trainer(DiffusionDPO(), ONE))
    assert new.metrics["updates"] == 1 and all(bool(v.isfinite().all()) for v in new.bank.values())


def test_two_updates_use_every_pair_once():
    policy, run, scores = made("sd3")
    pairs = preferences(scores, "all pairs")
    steps = paired(run, pairs, 2, 2)
    assert len(steps) == 2
    rows = torch.cat([micro.rows.chunk(2)[0] for micros in steps for micro in micros])
    assert sorted(rows.tolist()) == sorted(pairs.winner.tolist() * 2)
    assert train_dpo(policy, run, pairs, DiffusionDPO(), Optimizer(updates=2)).step == 2
