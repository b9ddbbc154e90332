"""Of every loss: which inputs learn, which are held still, and the numbers it reports, counted by hand."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest
import torch
from posttrain.trainers import losses
from posttrain.trainers.losses.add import discriminator_loss, student_loss
from posttrain.trainers.losses.awm import awm_loss
from posttrain.trainers.losses.bradley_terry import choice_loss
from posttrain.trainers.losses.crd import crd_loss
from posttrain.trainers.losses.d3po import d3po_loss
from posttrain.trainers.losses.ddpo import ppo_clip_loss
from posttrain.trainers.losses.dgpo import dgpo_loss, gate
from posttrain.trainers.losses.diffusion_dpo import diffusion_dpo_loss
from posttrain.trainers.losses.diffusion_opd import opd_loss
from posttrain.trainers.losses.dpok import dpok_loss, value_loss
from posttrain.trainers.losses.draft import alignprop_loss, draft_loss
from posttrain.trainers.losses.flow_dppo import flow_dppo_loss
from posttrain.trainers.losses.flow_grpo import flow_grpo_loss, with_kl
from posttrain.trainers.losses.grpo_guard import grpo_guard_loss, guard_log_ratio
from posttrain.trainers.losses.kto import kto_loss
from posttrain.trainers.losses.lcm import consistency_loss
from posttrain.trainers.losses.mapo import mapo_loss
from posttrain.trainers.losses.nft import nft_loss
from posttrain.trainers.losses.refl import hinge_reward_loss, refl_loss
from posttrain.trainers.losses.rtdmd import brake_loss, fake_score_loss
from posttrain.trainers.losses.rwr import rwr_loss, sparse_weights
from posttrain.trainers.losses.sdpo import loser_scale
from posttrain.trainers.losses.spo import spo_loss
from posttrain.trainers.losses.srpo import srpo_loss

UP, DOWN = torch.tensor([1.0, -1.0, 2.0]).double(), torch.tensor([0.25, 0.5, -0.5]).double()
GOOD = torch.tensor([True, False, True])


def f(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def guarded(log_prob, old_log_prob, mean, old_mean):
    return grpo_guard_loss(guard_log_ratio(log_prob, old_log_prob, mean, old_mean, f(1, 2, 3)), UP, f(1, 2, 3), 10.0)


# the loss as a function of its named inputs; those that learn; those whose gradient must stop
LEARN = {
    "discriminator_loss": (lambda real, fake, r1: discriminator_loss(real, fake, r1), "real fake r1", ""),
    "student_loss": (
        lambda fake, x0, x0_teacher: student_loss(fake, x0[:, None], x0_teacher[:, None], f(1, 2, 3)),
        "fake x0",
        "x0_teacher",
    ),
    "awm_loss": (
        lambda log_prob, old, ema_kl, kl: awm_loss(log_prob, old, UP, 10.0, ema_kl, 1.0, kl, 1.0),
        "log_prob ema_kl kl",
        "old",
    ),
    "choice_loss": (lambda a, b: choice_loss(a, b, torch.tensor([1, 0, -1]), 5.0), "a b", ""),
    "crd_loss": (lambda implicit, kl: crd_loss([(implicit, DOWN)], kl=kl), "implicit kl", ""),
    "d3po_loss": (lambda w, l_, rw, rl: d3po_loss(w, l_, rw, rl, clip_range=0.9), "w l_", "rw rl"),
    "spo_loss": (lambda w, l_, rw, rl: spo_loss(w, l_, rw, rl, clip_range=0.9), "w l_", "rw rl"),
    "ppo_clip_loss": (lambda log_prob, old: ppo_clip_loss(log_prob, old, UP, 10.0), "log_prob", "old"),
    "dgpo_loss": (lambda error, weights, kl: dgpo_loss(error, UP, weights, None, kl, 1.0), "error kl", "weights"),
    "diffusion_dpo_loss": (lambda w, l_, rw, rl: diffusion_dpo_loss(w, l_, rw, rl, 1.0), "w l_", "rw rl"),
    "opd_loss": (
        lambda student, teacher, variance: opd_loss(student[:, None], teacher[:, None], variance),
        "student",
        "teacher variance",
    ),
    "dpok_loss": (lambda log_prob, old, kl: dpok_loss(log_prob, old, UP, 10.0, kl), "log_prob kl", "old"),
    "value_loss": (value_loss, "values", "rewards"),
    "draft_loss": (lambda rewards, drift: draft_loss(rewards, drift, 1.0), "rewards drift", ""),
    "alignprop_loss": (alignprop_loss, "rewards", ""),
    "flow_dppo_loss": (lambda log_prob, old, kl_old: flow_dppo_loss(log_prob, old, UP, kl_old, 10.0), "log_prob", "old kl_old"),
    "flow_grpo_loss": (lambda log_prob, old, kl: flow_grpo_loss(log_prob, old, UP, 10.0, kl, 1.0), "log_prob kl", "old"),
    "grpo_guard_loss": (
        lambda log_prob, old, mean, old_mean: guarded(log_prob, old, mean[:, None], old_mean[:, None]),
        "log_prob mean",
        "old old_mean",
    ),
    "kto_loss": (lambda error, ref, point: kto_loss(error, ref, GOOD, point.mean(), 1.0), "error", "ref point"),
    "consistency_loss": (lambda student, target: consistency_loss(student[:, None], target[:, None]), "student", "target"),
    "mapo_loss": (lambda winner, loser: mapo_loss(winner, loser, temperature=1.0), "winner loser", ""),
    "nft_loss": (
        lambda x0, old, kl: nft_loss(x0[:, None], old[:, None], UP[:, None], DOWN, kl=kl, kl_weight=1.0),
        "x0 kl",
        "old",
    ),
    "hinge_reward_loss": (lambda rewards: hinge_reward_loss(rewards, 9.0), "rewards", ""),
    "refl_loss": (
        lambda rewards, error: refl_loss(rewards, 9.0, pretrain_error=error, pretrain_weight=1.0),
        "rewards error",
        "",
    ),
    "brake_loss": (lambda x0, fake, real: brake_loss(x0[:, None], fake[:, None], real[:, None]), "x0", "fake real"),
    "fake_score_loss": (
        lambda v, x0: fake_score_loss(v[:, None], x0.detach()[:, None], UP[:, None], f(0, 0, 0), f(0.2, 0.5, 0.9)),
        "v",
        "x0",
    ),
    "rwr_loss": (rwr_loss, "error", "weights"),
    "srpo_loss": (srpo_loss, "rewards", ""),
}


@pytest.mark.parametrize("name", LEARN)
def test_what_learns_and_what_is_held_still(name):
    loss, learn, held = LEARN[name]
    names = f"{learn} {held}".split()
    generator = torch.Generator().manual_seed(0)
    inputs = {
        k: (0.3 + 0.2 * torch.rand(3, dtype=torch.float64, generator=generator)).requires_grad_()
        for k in loss.__code__.co_varnames[: loss.__code__.co_argcount]
        if k in names
    }
    out = loss(**inputs)
    total, reported = (out, {}) if isinstance(out, torch.Tensor) else (out.loss, out._asdict())
    gradients = dict(zip(inputs, torch.autograd.grad(total, list(inputs.values()), allow_unused=True)))
    assert {k for k, g in gradients.items() if g is not None and g.abs().sum() > 0} == set(learn.split())
    assert set(inputs) == set(names)
    assert [k for k, v in reported.items() if k != "loss" and v.requires_grad] == [], "what is reported keeps no graph"


def test_every_loss_is_among_them():
    found = {
        name
        for file in Path(losses.__file__).parent.glob("[a-z]*.py")
        for name, value in vars(importlib.import_module(f"{losses.__name__}.{file.stem}")).items()
        if name.endswith("_loss")
    }
    assert found == set(LEARN)


REPORTED = {
    "discriminator": (
        lambda: discriminator_loss(f(0.5, -1, 2), f(-0.5, 0.25, 4), f(1, 2, 6)),
        {"real": 0.5, "fake": 1.25, "r1": 3.0},
    ),
    "student": (
        lambda: student_loss(
            f(1, 2, 6), torch.stack([f(1, 0, 3), f(2, 0, 3)], 1), torch.stack([f(0, 0, 1), f(0, 0, 1)], 1), f(1, 0.5, 0.25)
        ),
        {"adversarial": -3.0, "distill": 3.5 / 3, "loss": -3 + 2.5 * 3.5 / 3},
    ),
    "choices": (lambda: choice_loss(f(1, 2, 0, 5), f(0, 1, 2, 5), torch.tensor([1, -1, -1, 0]), 5.0), {"accuracy": 2 / 3}),
    "only ties": (lambda: choice_loss(f(1, 2), f(0, 2), torch.tensor([0, 0]), 5.0), {"accuracy": 0.0}),
    "rewards": (
        lambda: crd_loss([(f(1, 2), f(0, 2)), (f(1, 1), f(1, 4))], 2.0, 1.0, kl=f(1, 3)),
        {"policy_loss": (4 + 4 + 1 + 4) / 8, "kl": 2.0, "loss": 13 / 8 + 2},
    ),
    "step pairs": (
        lambda: d3po_loss(f(0.05, -0.5, 0.06), f(0.02, 0.3, -0.3), f(0, 0, 0), f(0, 0, 0)),
        {"accuracy": 2 / 3, "clip_fraction": 0.5, "winner_gain": -0.13, "loser_gain": 0.02 / 3},
    ),
    "pairs": (
        lambda: diffusion_dpo_loss(f(1, 2, 3), f(2, 1, 9), f(2, 1, 1), f(1, 2, 1), 1.0),
        {"accuracy": 2 / 3, "winner_gap": 2 / 3, "loser_gap": 8 / 3},
    ),
    "ratio": (
        lambda: ppo_clip_loss(f(math.log(1.5), math.log(0.9), 0.0, 0.0), f(0, 0, 0, 0), f(1, 1, 1, 1), 0.2),
        {"clip_fraction": 0.25, "approx_kl": (math.log(1.5) ** 2 + math.log(0.9) ** 2) / 8},
    ),
    "unmoved": (lambda: ppo_clip_loss(f(1, 2), f(1, 2), f(1, 1), 0.0), {"clip_fraction": 0.0, "approx_kl": 0.0}),
    "unmoved, with kl": (lambda: with_kl(f(7)[0], f(0, 0), 0.0, f(1, 2), 2.0), {"clip_fraction": 0.0, "kl": 1.5, "loss": 10.0}),
    "gated": (
        lambda: dgpo_loss(
            f(1, 2, 3, 4), f(1, 2, 3, 0), f(1, 1, 1, 1), torch.tensor([True, False, False, False]), f(1, 2, 3, 6), 0.5
        ),
        {"policy_loss": 3.5, "kl": 3.0, "gated_fraction": 0.25, "loss": 5.0},
    ),
    "aligned, without end": (lambda: alignprop_loss(f(1, 2, 6)), {"reward": 3.0, "saturated": 0.0}),
    "aligned, at the target": (
        lambda: alignprop_loss(f(1, 2, 6), 2.0, 1.0),
        {"reward": 3.0, "saturated": 2 / 3, "loss": 5 / 3},
    ),
    "drafted": (lambda: draft_loss(f(1, 2, 6), f(1, 1, 4), 0.5), {"reward": 3.0, "saturated": 0.0, "loss": -2.0}),
    "hinge": (lambda: hinge_reward_loss(f(1, 2, 6), 2.0), {"reward": 3.0, "saturated": 2 / 3, "loss": 1 / 3}),
    "thumbs": (
        lambda: kto_loss(f(1, 2, 3, 4), f(3, 3, 3, 9), torch.tensor([True, False, True, True]), f(1)[0], 1.0),
        {"desirable_gain": 7 / 3, "undesirable_gain": 1.0, "accuracy": 2.5 / 4},
    ),
    "thumbs of one kind": (
        lambda: kto_loss(f(1, 2), f(3, 3), torch.tensor([True, True]), f(9)[0], 1.0),
        {"desirable_gain": 1.5, "undesirable_gain": 0.0, "accuracy": 0.0},
    ),
    "consistency": (
        lambda: consistency_loss(torch.stack([f(1, 2), f(3, 4)]), torch.stack([f(0, 2), f(1, 0)])),
        {"error": 5.25},
    ),
    "distilled": (
        lambda: opd_loss(torch.stack([f(1, 2), f(3, 4)]), torch.stack([f(0, 2), f(1, 0)]), f(1, 4)),
        {"error": 5.25, "loss": (0.5 / 2 + 10 / 8) / 2},
    ),
    "likelihood": (
        lambda: mapo_loss(f(1, 2, 5), f(2, 1, 9)),
        {
            "winner_error": 8 / 3,
            "loser_error": 4.0,
            "accuracy": 2 / 3,
            "margin": (
                0.5 / math.expm1(0.5)
                + 1 / math.expm1(1)
                + 2.5 / math.expm1(2.5)
                - 1 / math.expm1(1)
                - 0.5 / math.expm1(0.5)
                - 4.5 / math.expm1(4.5)
            )
            / 3,
        },
    ),
    "likelihood, tied": (lambda: mapo_loss(f(1, 2), f(1, 1)), {"accuracy": 0.25}),
    "weighted": (lambda: rwr_loss(f(1, 2, 6), f(1, 0, 2)), {"error": 3.0, "loss": 13 / 3}),
    "outward at no move": (
        lambda: flow_dppo_loss(f(1, 1), f(1, 1), f(1, -1), f(9, 9), 1.0),
        {"dropped_fraction": 0.0, "kl": 9.0},
    ),
    "outward at the threshold": (
        lambda: flow_dppo_loss(f(2, 1), f(1, 1), f(1, 1), f(1, 2), 1.0),
        {"dropped_fraction": 0.5, "kl": 1.5, "approx_kl": 0.25},
    ),
}


@pytest.mark.parametrize("case", REPORTED)
def test_reported_numbers(case):
    loss, expected = REPORTED[case]
    out = loss()
    assert {name: getattr(out, name).item() for name in expected} == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_the_gate_closes_beyond_the_clip_on_the_advantages_side_only():
    old, error = f(1, 1, 1, 1, 1, 1), 1 - f(1.6, 1.2, 0.4, 0.8, 1.6, 0.4).log()
    assert gate(error, old, f(1, 1, -1, -1, -1, 1), 0.5).tolist() == [True, False, True, False, False, False]
    assert not gate(old, old, f(1, 1, 1, -1, -1, 0), 0.0).any(), "one that has not moved stays open"
    assert gate(error.requires_grad_(), old, f(1, 1, 1, 1, 1, 1), 0.5).dtype == torch.bool


def test_the_losers_scale_at_and_near_a_right_angle():
    winner, zero = torch.stack([f(0.5, 0), f(0.5, 0), f(0, 0)]).requires_grad_(), torch.zeros(3, 2).double()
    loser = torch.stack([f(0.8, 1), f(0, 0.7), f(1, 1)]).requires_grad_()
    scale = loser_scale(winner, zero, loser, zero)
    torch.testing.assert_close(scale, f(0.1 * 0.25 / 0.4, 1, 1), msg="errors at a right angle cannot harm the winner")
    assert not scale.requires_grad


def test_the_best_reward_is_at_its_own_percentile():
    torch.testing.assert_close(sparse_weights(f(1, 4, 2), 100.0), f(0, 3, 0))
