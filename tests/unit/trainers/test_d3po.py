"""D3PO on images whose trajectories are rebuilt."""

from __future__ import annotations

import math

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.tests.unit.trainers.preference_cases import KINDS, ONE, fresh_policy, made
from posttrain.trainers.d3po import D3PO, rebuilt
from posttrain.trainers.feedback.pairs import preferences
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.noise.transitions import ddim, log_prob
from posttrain.trainers.policy import open_policy
from posttrain.trainers.sampling.rollout import rollout_from_latents
from small_models import PlainVAE, prompts_for


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
