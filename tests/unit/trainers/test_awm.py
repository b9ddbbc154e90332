"""At which noise levels AWM learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.tests.unit.trainers.scored_rollouts import SMALL
from posttrain.tests.unit.trainers.seen_micros import micros_of
from posttrain.trainers import awm
from posttrain.trainers.awm import AWM
from posttrain.trainers.dgpo import DGPO
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import PlainVAE, prompts_for, trained_policy

SAMPLING = Sampling(
    steps=10, width=64, height=64, prompts_per_iteration=2, images_per_prompt=4, batch_size=8, transition="deterministic"
)


@pytest.fixture
def made():
    run = rollout(trained_policy("sd3"), prompts_for("sd3"), PlainVAE(), SAMPLING, 0)
    return run, advantages(Scores(torch.arange(8.0).double(), run.index, {}, {}))


def test_awm_leaves_pure_noise_out(made, monkeypatch):
    run, _ = made
    seen = {float(sigma) for micro in micros_of(awm, AWM(levels=8), made, monkeypatch) for sigma in micro.sigma}
    assert float(run.sigmas[0]) == 1 and seen == set(run.sigmas[1:-2].tolist())


def test_the_copy_that_awm_is_held_near_goes_with_it():
    policy = trained_policy("sd3")
    run = rollout(policy, prompts_for("sd3"), PlainVAE(), SMALL, 0)
    feedback = advantages(Scores(run.images.mean((1, 2, 3)).double(), run.index, {}, {}))
    held = train_step(replace(policy, iteration=300), run, feedback, Trainer(AWM(levels=1), Optimizer()))
    again = train_step(held, run, feedback, Trainer(AWM(levels=1), Optimizer()))
    other = train_step(held, run, feedback, Trainer(DGPO(levels=1), Optimizer()))
    assert "follower" in held.anchors and "follower" in again.anchors and "follower" not in other.anchors
