"""DGPO's levels, its shared noise and its guided reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.tests.unit.trainers.seen_micros import micros_of
from posttrain.trainers import dgpo
from posttrain.trainers.dgpo import DGPO
from posttrain.trainers.engine.renoise import Renoised
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import PlainVAE, prompts_for, small_model, trained_policy

SAMPLING = Sampling(
    steps=10, width=64, height=64, prompts_per_iteration=2, images_per_prompt=4, batch_size=8, transition="deterministic"
)


@pytest.fixture
def made():
    run = rollout(trained_policy("sd3"), prompts_for("sd3"), PlainVAE(), SAMPLING, 0)
    return run, advantages(Scores(torch.arange(8.0).double(), run.index, {}, {}))


def test_the_noisiest_seven_of_ten_levels_and_the_same_for_all_groups(made, monkeypatch):
    run, _ = made
    micros = micros_of(dgpo, DGPO(levels=4), made, monkeypatch)
    levels = [float(micro.sigma[0]) for micro in micros]
    assert len(set(levels)) == 4 and min(levels) >= float(run.sigmas[6])
    for micro in micros:
        assert bool((micro.sigma == micro.sigma[0]).all())
        groups = run.index[micro.rows]
        noises = [micro.noise[groups == group] for group in groups.unique()]
        assert all(torch.equal(noise, noise[:1].expand_as(noise)) for noise in noises)
        assert not torch.equal(noises[0][0], noises[1][0])
    every = {float(micro.sigma[0]) for micro in micros_of(dgpo, DGPO(levels=9, noisiest=1.0), made, monkeypatch)}
    assert every == set(run.sigmas[:-2].tolist())


@pytest.mark.parametrize("guidance", [1.0, 4.5])
def test_the_reference_is_asked_with_its_guidance(made, guidance):
    run, feedback = made
    policy = create_policy(small_model("sd3"), Recipe(rank=4))
    trainer = Trainer(DGPO(levels=1, clip_range=0, reference_guidance=guidance), Optimizer())
    found = train_step(policy, run, feedback, trainer).metrics["kl"]
    with open_policy(policy) as net, torch.no_grad():
        (micro,) = dgpo.noised(run, feedback.used, 1, 1, 8, by_group=True, grid=run.sigmas[:7])[0]
        asked = Renoised(net, run, micro)
        plain, negative = (
            asked.ask(None),
            net.denoise(
                asked.x,
                asked.sigma,
                replace(run.prompts, positive=(run.prompts.negative,) * 2),
                run.index[micro.rows],
                1.0,
                None,
            ),
        )
        expected = asked.distance(plain, negative + guidance * (plain - negative)).mean()
    assert found == pytest.approx(float(expected), rel=1e-4, abs=1e-12) and (found > 0) == (guidance > 1)
