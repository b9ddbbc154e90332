"""Diffusion-DPO on ComfyUI's real modules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.preference_cases import KINDS, ONE, errors, fresh_policy, made, trap
from posttrain.tests.unit.trainers.seen_loss import loss_of, moved, same_loss
from posttrain.trainers import diffusion_dpo
from posttrain.trainers.diffusion_dpo import DiffusionDPO, train_dpo
from posttrain.trainers.engine.renoise import Renoised, paired
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.pairs import Preferences, preferences
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.policy import open_policy


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


@pytest.mark.parametrize("kind, beta, usual", [("sd15", 0, 5000), ("sd2_v", 0, 100), ("sd3", 0, 100), ("sd3", 30, None)])
def test_the_loss_and_what_it_reports(kind, beta, usual, monkeypatch):
    """-log sigmoid(-beta / 2 ((e_w - r_w) - (e_l - r_l))), e the policy's errors and r the reference's."""
    fresh = fresh_policy(kind)
    policy, run, scores = made(kind, fresh)
    evaluate, ((micro,),) = loss_of(
        diffusion_dpo, DiffusionDPO(beta=beta, levels=1), policy, run, preferences(scores), monkeypatch
    )
    with open_policy(policy) as net:
        question, seen = Renoised(net, run, micro), {}
        far = question.ask_quietly(None)
        r_w, r_l = question.error(far).chunk(2)

        def by_hand(bank):
            x0 = question.ask(bank)
            e_w, e_l = question.error(x0).chunk(2)
            inside = -(beta or usual) / 2 * ((e_w - r_w) - (e_l - r_l))
            seen.update(accuracy=(inside > 0).float().mean(), winner_error=e_w.mean(), loser_error=e_l.mean())
            seen.update(winner_change=(e_w - r_w).mean(), loser_change=(e_l - r_l).mean())
            seen.update(kl=(question.prediction(x0) - question.prediction(far)).square().mean())
            return torch.log(1 + torch.exp(-inside)).mean()

        report = same_loss(net, moved(policy.bank, 1, 0.005), lambda bank: evaluate(net, bank, micro), by_hand)
    assert report == pytest.approx({key: float(value.detach()) for key, value in seen.items()}, rel=1e-3)
