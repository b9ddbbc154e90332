"""At which noise levels AWM learns."""

from __future__ import annotations

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.tests.unit.trainers.seen_micros import micros_of
from posttrain.trainers import awm
from posttrain.trainers.awm import AWM
from posttrain.trainers.feedback.advantages import advantages
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
