"""Diffusion-KTO on ComfyUI's real modules: its reference point, its weights, what it reports."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.preference_cases import ONE, fresh_policy, made
from posttrain.tests.unit.trainers.seen_loss import loss_of, moved, same_loss
from posttrain.trainers import kto
from posttrain.trainers.engine.renoise import Renoised, noised
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.labels import Labels, labels
from posttrain.trainers.kto import KTO, ReferencePoints
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.policy import open_policy


def test_a_kto_step_of_one_micro_batch_needs_no_second_pass():
    policy, run, scores = made("sd3")
    whole = replace(run, batch_size=8)
    assert train_step(policy, whole, labels(scores), Trainer(KTO(levels=1), ONE)).metrics["update_evaluations"] == 16


def test_the_reference_point_asks_the_policy_once_more_of_all_micro_batches_but_an_updates_first():
    policy, run, scores = made("sd3")
    for size, levels, updates in ((3, 1, 1), (2, 2, 2), (8, 3, 1)):
        optimizer = Optimizer(updates=updates)
        step = train_step(policy, replace(run, batch_size=size), labels(scores), Trainer(KTO(levels=levels), optimizer))
        first = size * updates
        assert step.metrics["update_evaluations"] == 3 * 8 * levels - first


def test_ktos_reference_point_is_the_whole_batchs():
    policy, run, scores = made("sd3")
    thumbs = labels(scores)
    used = torch.ones(8, dtype=torch.bool)
    found, direct = [], []
    for size in (8, 4, 3, 1):
        cut = replace(run, batch_size=size)
        steps = noised(cut, used, 2, 1, size)
        points = ReferencePoints(cut, steps)
        with open_policy(policy) as net:
            bank = net.to_device(policy.bank)
            answers = [
                (question.error(question.ask(bank)), question.error(question.ask(None)))
                for question in (Renoised(net, cut, micro) for micro in steps[0])
            ]
            found.append([float(points.of(net, bank, micro, error)[0]) for micro, (error, _) in zip(steps[0], answers)])
            direct.append(float(torch.cat([r - e for e, r in answers]).mean().clamp_min(0)))
    for z, mean in zip(found, direct):
        assert z == pytest.approx([mean] * len(z), rel=1e-5) and mean == pytest.approx(direct[0], rel=1e-4)
    steps = [
        train_step(policy, replace(run, batch_size=size), thumbs, Trainer(KTO(), Optimizer(max_grad_norm=0))) for size in (8, 3)
    ]
    assert steps[0].metrics["grad_norm"] == pytest.approx(steps[1].metrics["grad_norm"], rel=1e-3)
    assert steps[0].metrics["reference_point"] == pytest.approx(steps[1].metrics["reference_point"], rel=1e-4)


def test_the_reference_point_is_not_zero_for_a_better_policy():
    """z is clamped at 0, so the test above would pass without one: here the policy fits the batch better."""
    policy, run, scores = made("sd3", fresh_policy("sd3"))
    up = Labels(torch.arange(8), torch.ones(8, dtype=torch.bool), run.index, {"failed": 0.0})
    trainer = Trainer(KTO(levels=2), Optimizer(learning_rate=1e-3))
    for _ in range(2):
        policy = train_step(policy, run, up, trainer)
    found = train_step(policy, run, up, trainer).metrics
    assert found["reference_point"] > 0 and found["winner_change"] < 0


def test_kto_reports_how_far_it_is_from_the_reference():
    policy, run, scores = made("sd3", fresh_policy("sd3"))
    trainer = Trainer(KTO(levels=2), Optimizer(learning_rate=1e-3))
    first = train_step(policy, run, labels(scores), trainer)
    assert first.metrics["kl"] == 0, "the policy starts as its reference"
    steps = noised(replace(run, iteration=first.iteration), torch.ones(8, dtype=torch.bool), 2, 1, run.batch_size)
    with open_policy(first) as net, torch.no_grad():
        bank, apart = net.to_device(first.bank), []
        for micro in steps[0]:
            question = Renoised(net, run, micro)
            apart.append(((question.prediction(question.ask(bank)) - question.prediction(question.ask(None))) ** 2).mean())
    assert train_step(first, run, labels(scores), trainer).metrics["kl"] == pytest.approx(
        float(sum(apart) / len(apart)), rel=1e-4
    )


def test_a_rarer_thumb_weighs_more():
    policy, run, _ = made("sd3", fresh_policy("sd3"))
    desirable = torch.tensor([True] + [False] * 7)
    thumbs = Labels(torch.arange(8), desirable, run.index, {"failed": 0.0})
    from posttrain.trainers.kto import _weights

    up, down = _weights(desirable, True)
    assert up == 4 and down == pytest.approx(4 / 7) and _weights(desirable, False) == (1, 1)
    assert _weights(torch.ones(3, dtype=torch.bool), True) == (1, 1), "one kind only: nothing to balance"
    new = train_step(policy, run, thumbs, Trainer(KTO(levels=1), ONE))
    assert new.metrics["loss"] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("kind, beta, usual", [("sd15", 0, 1000), ("sd2_v", 0, 20), ("sd3", 0, 20), ("sd3", 5, None)])
def test_the_loss_and_what_it_reports(kind, beta, usual, monkeypatch):
    """weight (1 - sigmoid(+-beta (r - e - z))), e the policy's errors and r the reference's, z the mean of r - e above 0."""
    policy, run, _ = made(kind, fresh_policy(kind))
    rows, up = torch.tensor([1, 2, 4, 5, 7]), torch.tensor([True, False, False, True, False])
    thumbs, good = Labels(rows, up, run.index[rows], {"failed": 0.0}), torch.zeros(8, dtype=torch.bool)
    good[rows] = up
    evaluate, ((micro, rest),) = loss_of(kto, KTO(beta=beta, levels=1), policy, run, thumbs, monkeypatch)
    assert sorted(torch.cat([micro.rows, rest.rows]).tolist()) == rows.tolist() and micro.size == 4
    good, seen = good[micro.rows], {}
    with open_policy(policy) as net:
        question, other = Renoised(net, run, micro), Renoised(net, run, rest)
        far = question.ask_quietly(None)
        r, r_other = question.error(far), other.error(other.ask_quietly(None))

        def by_hand(bank):
            x0 = question.ask(bank)
            e = question.error(x0)
            z = torch.cat([r - e, r_other - other.error(other.ask_quietly(bank))]).detach().mean().clamp_min(0)
            side = torch.where(good, 1.0, -1.0) * (r - e - z)
            seen.update(accuracy=(side > 0).float().mean(), reference_point=z)
            seen.update(winner_error=e[good].mean(), loser_error=e[~good].mean())
            seen.update(winner_change=(e - r)[good].mean(), loser_change=(e - r)[~good].mean())
            seen.update(kl=(question.prediction(x0) - question.prediction(far)).square().mean())
            return (torch.where(good, 5 / 4, 5 / 6) * (1 - torch.sigmoid((beta or usual) * side))).mean()

        report = same_loss(net, moved(policy.bank, 1, 0.005), lambda bank: evaluate(net, bank, micro), by_hand)
    assert report == pytest.approx({key: float(value.detach()) for key, value in seen.items()}, rel=1e-3, abs=1e-7)
