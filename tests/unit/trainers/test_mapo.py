"""MaPO on ComfyUI's real modules."""

from __future__ import annotations

import pytest
import torch
from posttrain.tests.unit.trainers.preference_cases import KINDS, made
from posttrain.tests.unit.trainers.seen_loss import loss_of, same_loss
from posttrain.trainers import mapo
from posttrain.trainers.engine.renoise import Renoised
from posttrain.trainers.feedback.pairs import preferences
from posttrain.trainers.mapo import MaPO
from posttrain.trainers.policy import open_policy


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_and_what_it_reports(kind, monkeypatch):
    """e_w - 0.2 log sigmoid(9 (phi(e_w) - phi(e_l))) with phi(e) = 0.7 e / (exp(0.7 e) - 1); no reference is asked."""
    policy, run, scores = made(kind)
    settings = MaPO(beta=0.2, scale=0.7, temperature=9.0, levels=3)
    evaluate, (micros,) = loss_of(mapo, settings, policy, run, preferences(scores), monkeypatch)
    assert len(micros) == 3 and {micro.size for micro in micros} == {4}
    micro = micros[1]
    with open_policy(policy) as net:
        question, seen = Renoised(net, run, micro), {}

        def by_hand(bank):
            e_w, e_l = question.error(question.ask(bank)).chunk(2)
            phi_w, phi_l = (0.7 * e / (torch.exp(0.7 * e) - 1) for e in (e_w, e_l))
            seen.update(accuracy=(phi_w > phi_l).float().mean(), winner_error=e_w.mean(), loser_error=e_l.mean())
            seen.update(margin=(phi_w - phi_l).mean())
            return (e_w + 0.2 * torch.log(1 + torch.exp(-9 * (phi_w - phi_l)))).mean()

        report = same_loss(net, policy.bank, lambda bank: evaluate(net, bank, micro), by_hand)
    assert report == pytest.approx({key: float(value.detach()) for key, value in seen.items()}, rel=1e-3)
