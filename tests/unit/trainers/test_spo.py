"""SPO on ComfyUI's real modules: which way it pushes, and how it weighs steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.preference_cases import KINDS, fresh_policy, in_step_pairs, made
from posttrain.tests.unit.trainers.steps_by_hand import PLAIN, agrees, clipped_gain, moved, summed
from posttrain.trainers import spo
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.noise.streams import generator
from posttrain.trainers.spo import SPO, WEIGHTINGS
from small_models import trained_policy


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


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_policy_that_has_moved_is_pulled_as_the_formula_says(weighting):
    """Winner and loser each against the reference, clipped; by noise, a step counts as its share of the mean noise."""
    run = made("sd3", noisy_steps=0)[1]
    policy, pairs = trained_policy("sd3", scale=0.1), in_step_pairs(run)
    new = train_step(policy, run, pairs, Trainer(SPO(beta=3.0, clip_range=0.02, weighting=weighting), PLAIN))
    weights = torch.ones(len(pairs.rows))
    if weighting == "by noise":
        noise = spo._noise_of_steps(policy, run.trajectory)[pairs.steps]
        weights = noise / noise.mean()

    def loss_of(net, bank, chosen):
        now = moved(net, bank, run, pairs.rows[chosen], pairs.steps[chosen])
        with torch.no_grad():
            reference = moved(net, None, run, pairs.rows[chosen], pairs.steps[chosen])
        winner, loser = (
            clipped_gain(now.log_prob(state[chosen]), reference.log_prob(state[chosen]), 0.02)
            for state in (pairs.winner, pairs.loser)
        )
        return (weights[chosen] * torch.nn.functional.softplus(-3.0 * (winner - loser))).sum() / len(weights)

    agrees(new, summed(policy, list(torch.arange(len(weights)).split(4)), loss_of))
    assert 0 < new.metrics["clip_fraction"] < 1


def test_the_order_of_the_pairs_stays_as_it_is(monkeypatch):
    """A run that is taken up again goes on in the order that it would have had."""
    policy, run, _ = made("sd3")
    pairs = in_step_pairs(run)
    run = replace(run, iteration=3, seeds=torch.arange(11, 19))
    monkeypatch.setattr(spo, "update", lambda policy, steps, *_, **__: steps)
    (bundles,) = spo.train_spo(policy, run, pairs, SPO(), Optimizer())
    expected = torch.randperm(len(pairs.rows), generator=generator(3, 11, 25))
    assert torch.equal(torch.cat([bundle.pairs for bundle in bundles]), expected)
