"""DGPO's levels, its shared noise, its guided reference and its loss."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.tests.unit.trainers.scored_rollouts import WHOLE_GROUPS, ranked_rollout
from posttrain.tests.unit.trainers.seen_loss import loss_of, moved, same_loss
from posttrain.tests.unit.trainers.seen_micros import micros_of
from posttrain.trainers import dgpo
from posttrain.trainers.dgpo import DGPO
from posttrain.trainers.engine.renoise import Renoised
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from posttrain.trainers.sampling.rollout import rollout
from small_models import PlainVAE, prompts_for, small_model, trained_policy


@pytest.fixture
def made():
    return ranked_rollout()


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


@pytest.mark.parametrize("steps, noisiest, count", [(10, 0.7, 7), (10, 0.01, 1), (4, 0.5, 2)])
def test_the_share_of_levels_is_rounded_and_at_least_one(steps, noisiest, count, monkeypatch):
    run = rollout(trained_policy("sd3"), prompts_for("sd3"), PlainVAE(), replace(WHOLE_GROUPS, steps=steps), 0)
    feedback = advantages(Scores(torch.arange(8.0).double(), run.index, {}, {}))
    _, (micros,) = loss_of(dgpo, DGPO(levels=count, noisiest=noisiest), trained_policy("sd3"), run, feedback, monkeypatch)
    assert [float(micro.sigma[0]) for micro in micros] == run.sigmas[:count].tolist()


@pytest.mark.parametrize("first, clip_range", [(True, 1e-6), (False, 1e-6), (False, 0.0)])
def test_the_loss_is_the_groups_preference_with_a_gate_after_the_first_update(made, monkeypatch, first, clip_range):
    run, feedback = made
    policy = trained_policy("sd3")
    settings = DGPO(beta=30.0, clip_range=clip_range, kl_weight=0.5, levels=1)
    evaluate, ((micro,),) = loss_of(dgpo, settings, policy, run, feedback, monkeypatch)
    micro = replace(micro, first=first)
    with open_policy(policy) as net:
        question = Renoised(net, run, micro)
        far, before = question.ask_quietly(None), question.error(question.ask_quietly(net.to_device(policy.bank)))
        advantage, groups, seen = feedback.values[micro.rows].float(), run.index[micro.rows], []

        def by_hand(bank):
            x0 = question.ask(bank)
            error, kl = question.error(x0), (question.prediction(x0) - question.prediction(far)).square().mean()
            loss, gated = torch.zeros(()), 0
            for group in (0, 1):
                rows = groups == group
                lead = (30 * advantage[rows] * (error - question.error(far)).detach()[rows] / 4).sum()
                weight = 1 / (1 + torch.exp(-lead))
                for row in rows.nonzero().flatten():
                    better = bool(error[row] < before[row])
                    stop = clip_range > 0 and not first and better == bool(advantage[row] > 0)
                    gated += stop
                    loss = loss + weight * advantage[row] * (error[row].detach() if stop else error[row]) / 8
            seen.append((float(loss.detach()), float(kl.detach()), gated / 8))
            return loss + 0.5 * kl

        report = same_loss(net, moved(policy.bank, 3), lambda bank: evaluate(net, bank, micro), by_hand)
    assert (report["policy_loss"], report["kl"], report["clip_fraction"]) == pytest.approx(seen[0], rel=1e-4, abs=1e-6)
    assert (report["clip_fraction"] not in (0, 0.5, 1)) == (clip_range > 0 and not first)
