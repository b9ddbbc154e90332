from __future__ import annotations

import math

import torch
from posttrain.trainers.losses.rwr import best_of_group, rwr_loss, softmax_weights, sparse_weights

F64 = torch.float64


def test_best_of_group_golden(golden):
    file = golden("01b")
    best = best_of_group(file["in.rewards"][:, 0], file["in.prompt_id"])
    assert torch.equal(best.to(F64), file["out.sft_globalstd0"]) and torch.equal(best.to(F64), file["out.sft_globalstd1"])
    assert best.sum() > file["in.prompt_id"].unique().numel(), "the file holds ties"


def test_flow_grpos_rwr_is_the_raw_reward_and_not_ours(golden):
    """Its softmax is commented out in the official code; the paper's weights, ours, are below."""
    file = golden("01b")
    assert all(torch.equal(file[f"out.rwr_globalstd{k}"], file["in.rewards"]) for k in (0, 1))


def test_softmax_weights_by_hand_and_mean_one():
    r, groups = torch.tensor([0.0, 1.0, 5.0, 3.0], dtype=F64), torch.tensor([0, 0, 1, 1])
    e = torch.tensor([1, math.e**2], dtype=F64)
    torch.testing.assert_close(softmax_weights(r, 2.0, groups)[:2], 2 * e / e.sum())
    for weights in (softmax_weights(r, 2.0), softmax_weights(r, 2.0, groups), sparse_weights(r, 50)):
        torch.testing.assert_close(weights.mean(), torch.tensor(1.0, dtype=F64))
    assert sparse_weights(r, 50).tolist() == [0, 0, 2, 2]


def test_beta_zero_is_plain_fine_tuning_and_shifts_do_not_matter():
    r = torch.tensor([0.0, 1.0, 5.0], dtype=F64)
    assert softmax_weights(r, 0.0).tolist() == [1, 1, 1]
    torch.testing.assert_close(softmax_weights(r, 0.7), softmax_weights(r + 1e4, 0.7))


def test_failed_rewards_weigh_nothing():
    r = torch.tensor([0.0, math.nan, 1.0, math.inf], dtype=F64)
    for weights in (softmax_weights(r), sparse_weights(r), best_of_group(r, torch.zeros(4, dtype=torch.int64))):
        assert not weights[1] and not weights[3] and weights[2] > 0
    torch.testing.assert_close(softmax_weights(r).sum(), torch.tensor(2.0, dtype=F64))
    assert not softmax_weights(r * math.nan).any()


def test_gradient_is_the_weighted_errors():
    error = torch.tensor([1.0, 2.0], dtype=F64, requires_grad=True)
    rwr_loss(error, torch.tensor([0.5, 1.5], dtype=F64)).loss.backward()
    assert error.grad.tolist() == [0.25, 0.75]
