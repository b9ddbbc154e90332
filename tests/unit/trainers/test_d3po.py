"""D3PO on images whose trajectories are rebuilt."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.tests.unit.trainers.preference_cases import KINDS, ONE, fresh_policy, made
from posttrain.tests.unit.trainers.steps_by_hand import PLAIN, agrees, clipped_gain, distance, moved, summed
from posttrain.trainers.d3po import D3PO, rebuilt
from posttrain.trainers.feedback.pairs import preferences
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.noise.streams import generator
from posttrain.trainers.noise.transitions import ddim, log_prob
from posttrain.trainers.policy import open_policy
from posttrain.trainers.sampling.draws import SampleNoise
from posttrain.trainers.sampling.rollout import rollout_from_latents
from small_models import PlainVAE, prompts_for, trained_policy


@pytest.mark.parametrize("kind", KINDS)
def test_a_rebuilt_trajectory_leads_to_its_image(kind):
    """Drawn from q: noisy at first, near the image at the end; its steps are the posterior's, exactly."""
    policy, run, _ = made(kind, transition="deterministic")
    with open_policy(policy) as net:
        path = net.path
    again = rebuilt(run, path, 4)
    states, sigmas = again.trajectory.states, again.trajectory.sigmas
    assert states.shape == (8, 5, *run.latents.shape[1:]) and float(sigmas[-1]) > 0
    a, s = path.coefficients(sigmas)
    for i in range(5):
        residual = (states[:, i] - a[i] * run.latents) / s[i]
        assert residual.std() == pytest.approx(1.0, abs=0.1), "every state has the noise of its level"
    step = ddim(1.0)(path, states[:, 1], run.latents, sigmas[1].expand(8), sigmas[2].expand(8))
    assert torch.equal(log_prob(states[:, 2], step), again.trajectory.log_probs[:, 1])
    for first, second in ((0, 3), (4, 7)):
        torch.testing.assert_close(states[first, 0] - a[0] * run.latents[first], states[second, 0] - a[0] * run.latents[second])
    with pytest.raises(ValueError, match="rebuilt steps"):
        rebuilt(run, path, 6)


@pytest.mark.parametrize("kind", KINDS)
def test_d3po_trains_on_images_of_any_sampler(kind):
    policy = fresh_policy(kind)
    latents = torch.randn(8, *made(kind)[1].latents.shape[1:], generator=torch.Generator().manual_seed(4))
    run = rollout_from_latents(policy, latents, prompts_for(kind), PlainVAE(), 0)
    scores = Scores(latents.mean((1, 2, 3)).double(), run.index, {}, {})
    new = train_step(policy, run, preferences(scores), Trainer(D3PO(rebuilt_steps=3), ONE))
    assert new.metrics["update_evaluations"] == 2 * 3 * 4 and new.metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_a_policy_that_has_moved_is_pulled_as_the_formula_says():
    """Every step of winner and loser against the reference, clipped; the KL is the mean over both."""
    _, run, scores = made("sd3")
    policy, pairs = trained_policy("sd3", scale=0.1), preferences(scores)
    new = train_step(policy, run, pairs, Trainer(D3PO(beta=3.0, clip_range=0.005), PLAIN))
    parts, away = [(pair, step) for pair in range(len(pairs.winner)) for step in range(run.trajectory.steps)], []

    def loss_of(net, bank, part):
        pair, step = part
        rows = torch.stack([pairs.winner[pair], pairs.loser[pair]])
        now, reached = moved(net, bank, run, rows, step), run.trajectory.states[rows, step + 1]
        with torch.no_grad():
            reference = moved(net, None, run, rows, step)
            away.append(float(distance(now.mean, reference.mean, now.std).mean()))
        winner, loser = clipped_gain(now.log_prob(reached), reference.log_prob(reached), 0.005)
        return torch.nn.functional.softplus(-3.0 * (winner - loser)) / len(parts)

    agrees(new, summed(policy, parts, loss_of))
    assert 0 < new.metrics["clip_fraction"] < 1
    assert new.metrics["kl"] == pytest.approx(sum(away) / len(away), rel=1e-3)


def test_a_rebuilt_trajectory_stays_as_it_is():
    """Its levels go from the rollout's first to its last but one; its noise is the prompt's own, in each iteration."""
    policy, run, _ = made("sd3", transition="deterministic")
    with open_policy(policy) as net:
        path = net.path
    again = rebuilt(replace(run, iteration=3), path, 5).trajectory
    assert torch.equal(again.sigmas, run.sigmas[:-1])
    for row in (0, 7):
        seed = torch.randint(2**62, (), generator=generator(3, int(run.index[row]), 10))
        noise = SampleNoise(seed[None]).next(tuple(run.latents.shape[1:]))
        start = path.add_noise(run.latents[row : row + 1], noise, again.sigmas[:1])
        torch.testing.assert_close(again.states[row : row + 1, 0], start)
    for k in range(5):
        step = ddim(1.0)(path, again.states[:, k], run.latents, again.sigmas[k].expand(8), again.sigmas[k + 1].expand(8))
        torch.testing.assert_close(again.means[:, k], step.mean)


def test_where_each_prompt_has_one_random_step_that_one_is_compared():
    policy, run, scores = made("sd3", window="one step for each prompt")
    pairs, there = preferences(scores), run.trajectory
    assert there.steps > 1 and there.chosen.sum(1).tolist() == [1] * 8
    new = train_step(policy, run, pairs, Trainer(D3PO(), ONE))
    assert new.metrics["update_evaluations"] == 2 * 2 * len(pairs.winner) and new.metrics["grad_norm"] > 0
