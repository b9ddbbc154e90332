from __future__ import annotations

import torch
import torch.nn.functional as F
from posttrain.trainers.losses.dgpo import dgpo_loss, gate, group_weights

F64 = torch.float64
GROUPS = torch.tensor([3, 3, 3, 7, 7, 7])


def batch():
    g = torch.Generator().manual_seed(0)
    error, ref = (torch.rand(6, dtype=F64, generator=g) for _ in range(2))
    advantages = torch.randn(2, 3, dtype=F64, generator=g)
    return error.requires_grad_(), ref, (advantages - advantages.mean(1, keepdim=True)).flatten()


def test_gradient_is_that_of_the_group_preference():
    """-log sigmoid(-S_g) summed over groups, divided by beta and scaled to a mean over samples."""
    error, ref, a = batch()
    beta, size = 7.0, 3
    s = (a * beta * (error - ref) / size).reshape(2, size).sum(1)
    (direct,) = torch.autograd.grad(-F.logsigmoid(-s).sum(), error)
    (ours,) = torch.autograd.grad(dgpo_loss(error, a, group_weights(error, ref, a, GROUPS, beta)).loss, error)
    torch.testing.assert_close(ours, direct * size / beta / 6)


def test_weights_are_one_half_at_the_start_and_shared_in_a_group():
    error, ref, a = batch()
    assert group_weights(error, error, a, GROUPS).tolist() == [0.5] * 6
    weights = group_weights(error, ref, a, GROUPS)
    assert weights[:3].unique().numel() == 1 and weights[0] != weights[3] and not weights.requires_grad


def test_micro_batches_given_the_weights_are_the_batch():
    error, ref, a = batch()
    weights = group_weights(error, ref, a, GROUPS)
    whole = dgpo_loss(error, a, weights, kl=ref, kl_weight=0.1).loss
    parts = sum(
        len(e) / 6 * dgpo_loss(e, v, w, kl=r, kl_weight=0.1).loss
        for e, v, w, r in zip(*(t.split([2, 4]) for t in (error, a, weights, ref))))
    torch.testing.assert_close(whole, parts)


def test_gate_stops_what_went_far_enough_and_keeps_the_value():
    error = torch.tensor([0.5, 0.5, 0.5, 0.5], dtype=F64, requires_grad=True)
    old = torch.tensor([0.6, 0.4, 0.6, 0.4], dtype=F64)
    a = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=F64)
    gated = gate(error, old, a, 1e-2)
    assert gated.tolist() == [True, False, False, True]
    weights = torch.full((4,), 0.5, dtype=F64)
    out = dgpo_loss(error, a, weights, gated)
    assert out.loss == dgpo_loss(error, a, weights).loss and out.gated_fraction == 0.5
    out.loss.backward()
    assert (error.grad == 0).tolist() == gated.tolist()


def test_an_advantage_of_nothing_is_gated_as_a_bad_one():
    """Its error has no weight in the loss; the share that is reported counts it on the side of what is pushed away."""
    error, old = torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([0.6, 0.4], dtype=F64)
    assert gate(error, old, torch.zeros(2, dtype=F64), 1e-2).tolist() == [False, True]
