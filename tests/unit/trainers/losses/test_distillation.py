"""LCM and ADD."""
from __future__ import annotations

import torch
from posttrain.trainers.losses.add import discriminator_loss, r1_penalty, student_loss
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


def test_discriminator_hinge():
    real, fake = torch.tensor([2.0, 0.5], requires_grad=True), torch.tensor([-3.0, 0.0], requires_grad=True)
    out = discriminator_loss(real, fake)
    assert out.loss.item() == 0.25 + 0.5
    out.loss.backward()
    assert real.grad.tolist() == [0.0, -0.5] and fake.grad.tolist() == [0.0, 0.5]


def test_r1_is_the_squared_gradient_and_trains_the_discriminator():
    features = torch.ones(2, 3, dtype=F64, requires_grad=True)
    weight = torch.tensor([1.0, 2.0, 2.0], dtype=F64, requires_grad=True)
    r1 = r1_penalty(features @ weight, features)
    assert r1.tolist() == [9.0, 9.0]
    logits = torch.full((2,), 5.0, dtype=F64)
    discriminator_loss(logits, -logits, r1, 0.5).loss.backward()
    torch.testing.assert_close(weight.grad, weight.detach())


def test_student_loss_parts():
    x0, teacher = (v.requires_grad_() for v in pair())
    logits, c = torch.tensor([1.0, 3.0, 2.0], dtype=F64), torch.tensor([1.0, 0.0, 0.5], dtype=F64)
    out = student_loss(logits, x0, teacher, c)
    rows = (x0 - teacher).detach().square().flatten(1).mean(1)
    torch.testing.assert_close(out.loss, -2 + 2.5 * (c * rows).mean())
    out.loss.backward()
    assert teacher.grad is None and not x0.grad[1].any() and x0.grad[0].any()
