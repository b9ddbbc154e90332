"""Gradients are collected like backward() collects them, and a failed pass leaves those of before."""

from __future__ import annotations

import pytest
import torch
from posttrain.trainers.policy import open_policy
from posttrain.trainers.policy.gradients import collect, gradients_of
from small_models import SIZE, prompts_for, trained_policy


def losses(a, b, c):
    """a and b have one gradient between them; c has a strided one, and none in the second loss."""
    return [(a + b).square().sum() + (c.T * torch.arange(6.0).reshape(3, 2)).sum(), (a + b).sum(), (a * b + c.sum()).sum()]


def fresh():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in ((4,), (4,), (2, 3))]


def test_they_are_backwards():
    ours, theirs = fresh(), fresh()
    for number in range(3):
        collect(gradients_of(losses(*ours)[number], ours), ours)
        losses(*theirs)[number].backward()
        for one, other in zip(ours, theirs):
            torch.testing.assert_close(one.grad, other.grad)
            assert one.grad.is_contiguous()
    assert len({leaf.grad.data_ptr() for leaf in ours}) == 3


def test_a_leaf_that_nothing_depends_on_has_none():
    leaves = fresh()
    collect(gradients_of(losses(*leaves)[1], leaves), leaves)
    assert leaves[2].grad is None and leaves[0].grad is not None
    gradients_of(losses(*leaves)[2], [])
    assert leaves[2].grad is not None, "without leaves it is a plain backward"


@pytest.mark.parametrize("recompute", [False, True])
def test_a_pass_that_fails_half_way_leaves_what_was_collected(recompute):
    """Also where its error comes in the middle of the backward, when some layers have theirs already."""
    policy, x = trained_policy("sd3"), torch.randn(2, *SIZE["sd3"])
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)
        leaves, fails = list(bank.values()), [False]

        def loss_of():
            out = net.denoise(x, torch.full((2,), 0.5), prompts_for("sd3"), [0, 1], 1.0, bank, recompute=recompute)
            return (out.square().sum() + Fails.apply(sum(leaf.sum() for leaf in leaves), fails)), {}

        net.gradients(loss_of, leaves)
        before = [leaf.grad.clone() for leaf in leaves]
        fails[0] = True
        with pytest.raises(KeyError):
            net.gradients(loss_of, leaves)
        assert all(torch.equal(leaf.grad, kept) for leaf, kept in zip(leaves, before))
        fails[0] = False
        net.gradients(loss_of, leaves)
        for leaf, kept in zip(leaves, before):
            torch.testing.assert_close(leaf.grad, 2 * kept, rtol=1e-4, atol=1e-5)


class Fails(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, fails):
        ctx.fails = fails
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if ctx.fails[0]:
            raise KeyError("for this test")
        return gradient, None
