"""LCM."""

from __future__ import annotations

import torch
from posttrain.trainers.losses.lcm import consistency_loss

F64 = torch.float64


def pair(seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 2, 4, 4, dtype=F64, generator=g) for _ in range(2)]


def test_huber_is_l1_far_and_scaled_squares_near():
    zero, far, near = (torch.full((1, 2), v, dtype=F64) for v in (0.0, 10.0, 1e-5))
    torch.testing.assert_close(consistency_loss(far, zero, 1e-3).loss.item(), 10.0 - 1e-3, rtol=1e-6, atol=0)
    torch.testing.assert_close(consistency_loss(near, zero, 1e-3).loss.item(), 1e-10 / 2e-3, rtol=1e-3, atol=0)
    torch.testing.assert_close(consistency_loss(far, zero).loss.item(), 100.0)


def test_the_official_boundary_scalings_leave_x0_as_it_is():
    """c_skip x + c_out x0 with sigma_data 0.5 and ten times the timestep, where the official script trains: t 19 to 999."""
    x, x0 = pair()
    for t in (19.0, 499.0, 999.0):
        c_skip, c_out = 0.25 / ((10 * t) ** 2 + 0.25), 10 * t / ((10 * t) ** 2 + 0.25) ** 0.5
        torch.testing.assert_close(c_skip * x + c_out * x0, x0, rtol=0, atol=4e-5)


def test_only_the_student_gets_gradient():
    a, b = (v.requires_grad_() for v in pair())
    consistency_loss(a, b).loss.backward()
    assert b.grad is None
    torch.testing.assert_close(a.grad, 2 * (a - b).detach() / a.numel())
