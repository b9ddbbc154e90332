"""CRD on ComfyUI's real modules: its loss, its first gradient, the two copies, what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.scored_rollouts import ranked_rollout
from posttrain.tests.unit.trainers.seen_loss import loss_of, moved, same_loss
from posttrain.trainers import crd
from posttrain.trainers.crd import CRD, OLD, RIVAL
from posttrain.trainers.engine.renoise import Renoised
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.policy import open_policy
from small_models import trained_policy

PLAIN = {"kl_weight": 0.0, "levels": 2}


@pytest.mark.parametrize("lagging, first", [(False, True), (False, False), (True, True)])
@pytest.mark.parametrize("temperature, guidance", [(0.0, 1.0), (0.3, 3.0)])
def test_the_loss_compares_two_rewards_within_each_prompt(monkeypatch, lagging, first, temperature, guidance):
    """Written again, prompt by prompt; the copy is another one but in the first update of a run."""
    run, feedback = ranked_rollout()
    policy = trained_policy("sd3")
    rival, now = moved(policy.bank, 1) if lagging else policy.bank, moved(policy.bank, 2)
    policy = replace(policy, anchors={RIVAL: rival} if lagging else {})
    settings = CRD(beta=2.0, temperature=temperature, kl_weight=0.5, reference_guidance=guidance, levels=1)
    evaluate, ((micro,),) = loss_of(crd, settings, policy, run, feedback, monkeypatch)
    micro = replace(micro, first=first)
    with open_policy(policy) as net:
        question = Renoised(net, run, micro)
        index, advantage = run.index[micro.rows], feedback.values[micro.rows].float()
        external = (advantage / 10 + 0.5).clamp(0, 1)
        far, then = question.ask_quietly(None, guidance), question.ask_quietly(net.to_device(rival))

        def error(x0):
            apart = question.prediction(x0) - question.target
            return apart.square().mean((1, 2, 3)) / apart.detach().abs().mean((1, 2, 3))

        def by_hand(bank):
            x0 = question.ask(bank)
            implicit = (error(x0).detach() if first and not lagging else error(then)) - error(x0)
            total = 0.0
            signs = (1, -1) if temperature else (0,)
            for group in (0, 1):
                r, a = implicit[index == group], external[index == group]
                for sign in signs:
                    share = (sign * a / (temperature or 1.0)).softmax(0)
                    apart = 2.0 * (r - (share * r).sum().detach()) - (a - (share * a).sum())
                    total = total + 5 / 2.0 * apart.square().sum() / len(signs)
            kl = (question.prediction(x0) - question.prediction(far)).square().mean((1, 2, 3))
            return (total + ((1e-4 + (0.5 - 1e-4) * external) * kl).sum()) / len(index)

        report = same_loss(net, now, lambda bank: evaluate(net, bank, micro), by_hand)
    assert report["kl"] > 0 and set(report) == {"policy_loss", "kl"}


def test_a_prompts_images_share_their_noise_and_stand_in_one_batch(monkeypatch):
    run, feedback = ranked_rollout()
    _, (micros,) = loss_of(crd, CRD(levels=3), trained_policy("sd3"), run, feedback, monkeypatch)
    assert len(micros) == 3 and len({float(micro.sigma[0]) for micro in micros}) == 3
    for micro in micros:
        for group in (0, 1):
            noise = micro.noise[run.index[micro.rows] == group]
            assert len(noise) == 4 and torch.equal(noise, noise[:1].expand_as(noise))


def test_two_copies_follow_after_each_step():
    run, feedback = ranked_rollout()
    policy = replace(trained_policy("sd3"), step=99)
    new = train_step(policy, run, feedback, Trainer(CRD(**PLAIN), Optimizer(learning_rate=1e-2)))
    key = next(iter(new.bank))
    for name, decay in ((RIVAL, 0.25 + 0.005 * 100), (OLD, 0.0075 * (100 - 75))):
        torch.testing.assert_close(new.anchors[name][key], policy.bank[key].lerp(new.bank[key], 1 - decay))
    assert new.chosen("behaviour") is new.anchors[OLD]
    again = train_step(new, run, feedback, Trainer(CRD(**PLAIN), Optimizer(learning_rate=1e-2)))
    torch.testing.assert_close(again.anchors[RIVAL][key], new.anchors[RIVAL][key].lerp(again.bank[key], 1 - 0.755))
    early = train_step(replace(policy, step=0), run, feedback, Trainer(CRD(**PLAIN), Optimizer()))
    assert RIVAL in early.anchors and OLD not in early.anchors, "the newest policy samples at first"
    other = train_step(new, run, feedback, Trainer(NFT(levels=1), Optimizer()))
    assert RIVAL not in other.anchors


@pytest.mark.parametrize(
    "settings, evaluations", [({}, 2), ({"kl_weight": 0.1}, 3), ({"kl_weight": 0.1, "reference_guidance": 4.5}, 4)]
)
def test_it_evaluates_no_more_than_it_needs(settings, evaluations):
    run, feedback = ranked_rollout()
    policy = trained_policy("sd3")
    trainer = Trainer(CRD(**PLAIN | settings), Optimizer())
    first = train_step(policy, run, feedback, trainer)
    assert first.metrics["update_evaluations"] == 8 * 2 * (evaluations - 1)
    assert train_step(first, run, feedback, trainer).metrics["update_evaluations"] == 8 * 2 * evaluations


def test_it_comes_to_rest_where_the_rewards_agree():
    """On one batch over and over, with the copy held still: the two rewards meet, and the push fades."""
    run, feedback = ranked_rollout()
    policy = trained_policy("sd3")
    policy = replace(policy, anchors={RIVAL: policy.bank})
    still = {"rival_start": 1.0, "rival_ceiling": 1.0, "old_rate": 0.0}
    trainer = Trainer(CRD(kl_weight=0.0, levels=1, **still), Optimizer(learning_rate=2e-4))
    losses, now = [], policy
    for _ in range(8):
        now = replace(train_step(now, run, feedback, trainer), iteration=0)
        losses.append(now.metrics["policy_loss"])
    assert losses[-1] < 0.7 * losses[0], losses
    assert all(torch.equal(now.anchors[RIVAL][key], policy.bank[key]) for key in policy.bank)
