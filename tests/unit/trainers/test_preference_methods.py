"""What the methods that learn from pairs or thumbs have in common, on ComfyUI's real modules."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.preference_cases import KINDS, ONE, errors, feedback_for, fresh_policy, made
from posttrain.trainers.d3po import D3PO
from posttrain.trainers.diffusion_dpo import DiffusionDPO
from posttrain.trainers.engine.update import SKIPPED, Optimizer
from posttrain.trainers.feedback.pairs import preferences
from posttrain.trainers.kto import KTO
from posttrain.trainers.mapo import MaPO
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.spo import SPO

ALL = (DiffusionDPO(), DiffusionDPO(safeguard=0.9), MaPO(), KTO(), D3PO(), SPO(), SPO(weighting="by noise"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings, start",
    [
        (DiffusionDPO(), math.log(2)),
        (DiffusionDPO(safeguard=0.9), math.log(2)),
        (KTO(), 0.5),
        (KTO(balance=False), 0.5),
        (D3PO(), math.log(2)),
        (SPO(), math.log(2)),
        (SPO(weighting="by noise"), math.log(2)),
    ],
)
def test_the_loss_starts_where_it_must(kind, settings, start):
    """A fresh bank is the reference: no pair is preferred yet, through the real network and at every noise level."""
    policy, run, scores = made(kind, fresh_policy(kind))
    new = train_step(policy, run, feedback_for(settings, run, scores), Trainer(settings, ONE))
    # weights of a balanced KTO and of SPO's steps average to 1 over the batch, up to its last digits
    assert new.metrics["loss"] == pytest.approx(start, abs=2e-6)
    assert new.metrics["updates"] == 1 and new.metrics["grad_norm"] > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "settings, evaluations",
    [
        (DiffusionDPO(levels=3), 2 * 3 * 4),
        (MaPO(levels=3), 2 * 3 * 2),
        (DiffusionDPO(levels=1, safeguard=0.5), 2 * 4),
        (D3PO(), 2 * 2 * 4),
        (SPO(), 16 * 2),
        (KTO(levels=1), 8 * 3 - 4),
    ],
)
def test_each_evaluates_the_network_no_more_than_it_needs(kind, settings, evaluations):
    """2 pairs, 8 thumbs, 2 random steps. DPO 4 per pair and level, MaPO without the reference 2, SPO 2 per pair.
    KTO 3 per thumb, less one of each in an update's first micro-batch of 4."""
    policy, run, scores = made(kind)
    new = train_step(policy, run, feedback_for(settings, run, scores), Trainer(settings, ONE))
    assert new.metrics["update_evaluations"] == evaluations


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [DiffusionDPO(), DiffusionDPO(safeguard=0.9), MaPO(beta=10.0), KTO()])
def test_a_step_lowers_the_winners_error_against_the_losers(kind, settings):
    policy, run, scores = made(kind)
    new = train_step(policy, run, feedback_for(settings, run, scores), Trainer(settings, Optimizer(learning_rate=1e-4)))
    pairs = preferences(scores)
    change = (errors(policy, run, pairs, new) - errors(policy, run, pairs, policy)).mean(1)
    assert change[0] < change[1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [D3PO(), SPO()])
def test_a_step_makes_the_winners_steps_likelier_than_the_losers(kind, settings):
    policy, run, scores = made(kind, fresh_policy(kind))
    trainer = Trainer(settings, Optimizer(learning_rate=3e-4))
    new = train_step(policy, run, feedback_for(settings, run, scores), trainer)
    after = train_step(new, run, feedback_for(settings, run, scores), trainer).metrics
    assert after["winner_gain"] > after["loser_gain"] and after["loss"] < new.metrics["loss"]


@pytest.mark.parametrize("settings", ALL)
def test_micro_batches_do_not_change_the_update(settings):
    policy, run, scores = made("sd3")
    feed = feedback_for(settings, run, scores)
    first, second = (
        train_step(policy, replace(run, batch_size=size), feed, Trainer(settings, Optimizer(max_grad_norm=0)))
        for size in (8, 2)
    )
    assert first.metrics["grad_norm"] == pytest.approx(second.metrics["grad_norm"], rel=2e-3)


def test_winner_and_loser_are_reported_apart():
    policy, run, scores = made("sd3")
    for settings in (DiffusionDPO(), KTO()):
        found = train_step(policy, run, feedback_for(settings, run, scores), Trainer(settings, ONE)).metrics
        assert {"winner_error", "loser_error", "winner_change", "loser_change", "accuracy"} <= found.keys()
        assert found["winner_error"] != found["loser_error"]
    found = train_step(policy, run, preferences(scores), Trainer(MaPO(), ONE)).metrics
    assert {"winner_error", "loser_error", "accuracy"} <= found.keys() and "winner_change" not in found
    found = train_step(policy, run, preferences(scores), Trainer(D3PO(), ONE)).metrics
    assert {"winner_gain", "loser_gain", "kl", "clip_fraction"} <= found.keys()


@pytest.mark.parametrize("settings", [DiffusionDPO(), MaPO(), KTO(), D3PO()])
def test_nothing_to_learn_from_leaves_the_weights_and_counts(settings):
    policy, run, scores = made("sd3")
    equal, failed = (replace(scores, values=torch.full((8,), v, dtype=torch.float64)) for v in (1.0, math.nan))
    new = train_step(policy, run, feedback_for(settings, run, equal), Trainer(settings, ONE))
    assert new.metrics["updates"] == 0 and new.metrics[SKIPPED] == 0 and new.iteration == policy.iteration + 1
    assert all(torch.equal(new.bank[k], policy.bank[k]) for k in new.bank)
    assert train_step(policy, run, feedback_for(settings, run, failed), Trainer(settings, ONE)).metrics[SKIPPED] == 1


@pytest.mark.parametrize(
    "settings, message",
    [
        (DiffusionDPO(beta=-1), "beta"),
        (DiffusionDPO(levels=0), "levels"),
        (DiffusionDPO(safeguard=1.5), "winner keeps"),
        (MaPO(beta=0), "beta"),
        (MaPO(beta=math.nan), "beta"),
        (KTO(beta=math.inf), "beta"),
        (KTO(levels=0), "levels"),
        (D3PO(beta=0), "beta"),
        (D3PO(clip_range=1), "clip range"),
        (SPO(clip_range=0), "clip range"),
        (SPO(weighting="none"), "weighting"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    policy, run, scores = made("sd3")
    with pytest.raises(ValueError, match=message):
        train_step(policy, run, feedback_for(settings, run, scores), Trainer(settings, ONE))


def test_all_of_them_work_as_nodes_run_them():
    """The host runs nodes in inference mode, and hands on what they made there."""
    policy, _, _ = made("sd3")
    with torch.inference_mode():
        for settings in ALL:
            _, run, scores = made("sd3", policy)
            new = train_step(policy, run, feedback_for(settings, run, scores), Trainer(settings, ONE))
            assert not any(t.is_inference() for t in new.bank.values()) and new.metrics["updates"] == 1


def test_a_network_that_overwrites_its_activations_is_trained_right():
    policy, run, scores = made("flux")
    for settings in (DiffusionDPO(), KTO()):
        new = train_step(policy, run, feedback_for(settings, run, scores), Trainer(settings, ONE))
        assert new.metrics["updates"] == 1
