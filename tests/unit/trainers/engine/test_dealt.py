"""Texts of several lengths: no trainer asks the network more often for them than it must, and none learns otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.every_method import RAW, SMALL, settings_of, stepped
from posttrain.trainers.d3po import D3PO
from posttrain.trainers.dgpo import DGPO
from posttrain.trainers.diffusion_dpo import DiffusionDPO
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.dealt import dealt
from posttrain.trainers.engine.renoise import noised
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import METHODS, Trainer
from posttrain.trainers.nft import NFT
from posttrain.trainers.prompts import PromptSet
from posttrain.trainers.sampling.rollout import rollout
from small_models import PlainVAE, prompts_for, trained_policy

# two images, or one pair, go through the network together, so that no batch need hold two lengths
EIGHT = replace(SMALL, images_per_prompt=4, batch_size=2, guidance=1.0)
# one of each way in which images are dealt out; SPO's candidates are chosen by their place, so it would learn from others
WAYS = (FlowGRPO, NFT, DGPO, DiffusionDPO, D3PO, DRaFT)


def iteration(kind: type, lengths: tuple[int, int]):
    """(the policy after it, calls of the network)."""
    policy, calls = trained_policy("sd3"), []
    hook = policy.model.model.diffusion_model.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        trained = stepped(kind, policy, EIGHT, Trainer(settings_of(kind, policy), RAW), prompts_for("sd3", lengths))
    finally:
        hook.remove()
    return trained, len(calls)


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_two_lengths_cost_no_call_more_and_nothing_is_learned_otherwise(kind, monkeypatch):
    ordered, calls = iteration(kind, (6, 10))
    assert calls == iteration(kind, (6, 6))[1]
    if kind not in WAYS:
        return
    monkeypatch.setattr(PromptSet, "side_by_side", lambda *_: None)
    as_dealt, _ = iteration(kind, (6, 10))
    for name in ("loss", "grad_norm"):
        assert ordered.metrics[name] == pytest.approx(as_dealt.metrics[name], rel=2e-3, abs=1e-6)


def test_without_the_order_it_would_cost_more(monkeypatch):
    needed = iteration(NFT, (6, 10))[1]
    monkeypatch.setattr(PromptSet, "side_by_side", lambda *_: None)
    assert iteration(NFT, (6, 10))[1] > needed


@pytest.mark.parametrize("by_group", [False, True])
def test_every_sample_keeps_its_update_its_noise_and_its_level(by_group, monkeypatch):
    run = rollout(trained_policy("sd3"), prompts_for("sd3", (6, 10)), PlainVAE(), EIGHT, 0)
    used = torch.tensor([True, True, False, True, True, True, True, True])

    def found():
        updates = noised(run, used, 2, 2, 3, by_group=by_group)
        rows = [
            {(int(row), level): (float(sigma), noise) for level, micro in enumerate(part) for row, sigma, noise in of(micro)}
            for part in updates
        ]
        return rows, updates

    def of(micro):
        return zip(micro.rows, micro.sigma, micro.noise)

    ordered, updates = found()
    monkeypatch.setattr(PromptSet, "side_by_side", lambda *_: None)
    dealt_out, _ = found()
    for one, other in zip(ordered, dealt_out, strict=True):
        assert {row for row, _ in one} == {row for row, _ in other}
        mine, theirs = ({(row, sigma): noise for (row, _), (sigma, noise) in each.items()} for each in (one, other))
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    mixed = sum(len(run.index[micro.rows].unique()) > 1 for part in updates for micro in part)
    assert mixed <= 2 * len(updates), "of each update, at most where one length ends and the next begins, at each level"


def test_prompts_of_one_length_stay_as_they_are_dealt():
    run = rollout(trained_policy("sd3"), prompts_for("sd3"), PlainVAE(), EIGHT, 0)
    order = torch.tensor([5, 0, 7, 2, 1, 6, 3, 4])
    assert [[part.tolist() for part in update] for update in dealt(order, 2, 3, run)] == [[[5, 0, 7], [3, 4]], [[2, 1, 6]]]
    assert PromptSet(()).side_by_side([]) is None


def test_lengths_come_in_the_order_in_which_they_are_met():
    prompts = prompts_for("sd3", (6, 10))
    assert prompts.side_by_side([1, 0, 1, 0]) == [0, 2, 1, 3] and prompts.side_by_side([1, 1]) is None
