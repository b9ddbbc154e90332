"""SPO on ComfyUI's real modules: which way it pushes, and how it weighs steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.preference_cases import KINDS, fresh_policy, in_step_pairs, made
from posttrain.trainers import spo
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.spo import SPO


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [SPO(), SPO(weighting="by noise")])
def test_swapping_the_candidates_of_a_step_turns_spos_first_step_round(kind, settings):
    """At the start the loss is odd in (winner, loser): both are pushed, as far as each other."""
    policy, run, _ = made(kind, fresh_policy(kind))
    pairs = in_step_pairs(run)
    moments = []
    for chosen in (pairs, replace(pairs, winner=pairs.loser, loser=pairs.winner)):
        new = train_step(policy, run, chosen, Trainer(settings, Optimizer(max_grad_norm=0)))
        moments.append(torch.cat([v.flatten() for k, v in sorted(new.optimizer.items()) if k.endswith("exp_avg")]))
    assert moments[0].abs().max() > 0
    torch.testing.assert_close(moments[0], -moments[1], rtol=1e-3, atol=1e-5 * float(moments[0].abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_weighted_by_the_noise_of_the_papers(kind):
    """TempFlow-GRPO's sigma_t sqrt(Delta_t) for flow; for eps and v the DDPM step's own sigma_t, of states of unit size."""
    policy, run, _ = made(kind, noisy_steps=0)
    sigma, sigma_next = run.trajectory.sigmas[:-1], run.trajectory.sigmas[1:]
    if kind == "sd3":
        rest = 1 - torch.where(sigma >= 1, sigma_next, sigma)
        expected = 0.7 * (sigma / rest * (sigma - sigma_next)).sqrt()
    else:
        bar, bar_next = 1 / (1 + sigma**2), 1 / (1 + sigma_next**2)
        expected = ((1 - bar_next) / (1 - bar) * (1 - bar / bar_next)).sqrt()
    torch.testing.assert_close(spo._noise_of_steps(policy, run.trajectory), expected, rtol=1e-4, atol=1e-6)
