"""At which noise levels AWM learns, from which loss, and the copy that it is held near."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.rewards.base.reward import Scores
from posttrain.tests.unit.trainers.scored_rollouts import SMALL, ranked_rollout
from posttrain.tests.unit.trainers.seen_loss import loss_of, moved, same_loss
from posttrain.tests.unit.trainers.seen_micros import micros_of
from posttrain.trainers import awm
from posttrain.trainers.awm import AWM
from posttrain.trainers.dgpo import DGPO
from posttrain.trainers.engine.renoise import Renoised
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.policy import open_policy
from posttrain.trainers.sampling.rollout import rollout
from small_models import PlainVAE, prompts_for, trained_policy


@pytest.fixture
def made():
    return ranked_rollout()


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


@pytest.mark.parametrize("first", [True, False])
def test_the_loss_is_advantage_weighted_matching_held_near_two_policies(case, monkeypatch, first):
    """Weighting "huber", a clip range that never acts: -A/5 exp(t (sqrt(old error) - sqrt(error))) + 2 and 0.5 of the KLs."""
    policy, run, feedback = case
    follower, now = moved(policy.bank, 1), moved(policy.bank, 2)
    policy = replace(policy, anchors={"follower": follower})
    settings = AWM(weighting="huber", clip_range=1e6, ema_beta=2.0, beta=0.5, levels=1)
    evaluate, ((micro, *_),) = loss_of(awm, settings, policy, run, feedback, monkeypatch)
    micro = replace(micro, first=first)
    with open_policy(policy) as net:
        question = Renoised(net, run, micro)
        t = micro.sigma if net.path.name == "flow" else micro.sigma / (1 + micro.sigma)
        near, far = question.ask_quietly(net.to_device(follower)), question.ask_quietly(None)
        before = question.error(question.ask_quietly(net.to_device(policy.bank)))
        advantage, seen = feedback.values[micro.rows].float() / 5, []

        def by_hand(bank):
            x0 = question.ask(bank)
            error = question.error(x0)
            policy_loss = (-advantage * (t * ((error.detach() if first else before).sqrt() - error.sqrt())).exp()).mean()
            kl = (question.prediction(x0) - question.prediction(far)).square().mean()
            seen.append((float(policy_loss.detach()), float(kl.detach())))
            return policy_loss + 2 * (question.prediction(x0) - question.prediction(near)).square().mean() + 0.5 * kl

        report = same_loss(net, now, lambda bank: evaluate(net, bank, micro), by_hand)
    assert (report["policy_loss"], report["kl"]) == pytest.approx(seen[0], rel=1e-4) and report["clip_fraction"] == 0


@pytest.mark.parametrize("iteration, ceiling, decay", [(100, 0.3, 0.1), (400, 0.3, 0.3), (400, 0.5, 0.4)])
def test_the_copy_follows_ever_more_slowly(iteration, ceiling, decay):
    policy = trained_policy("sd3")
    run = rollout(policy, prompts_for("sd3"), PlainVAE(), replace(SMALL, steps=3), 0)
    feedback = advantages(Scores(torch.arange(8.0).double(), run.index, {}, {}))
    trainer = Trainer(AWM(levels=1, ema_ceiling=ceiling), Optimizer(learning_rate=1e-2))
    for start in (None, moved(policy.bank, 1)):
        begun = replace(policy, iteration=iteration, anchors={} if start is None else {"follower": start})
        new = train_step(begun, run, feedback, trainer)
        for key, value in (start or policy.bank).items():
            expected = decay * value + (1 - decay) * new.bank[key]
            torch.testing.assert_close(new.anchors["follower"][key], expected, rtol=1e-4, atol=1e-6)
