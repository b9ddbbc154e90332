"""LCM and ADD."""
from __future__ import annotations

import torch

from posttrain.trainers.losses.add import discriminator_loss, r1_penalty, student_loss
from posttrain.trainers.losses.lcm import consistency_function, consistency_loss, guided
from posttrain.trainers.paths import FLOW
from posttrain.trainers.transitions import deterministic

F64 = torch.float64


def pair(seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 2, 4, 4, dtype=F64, generator=g) for _ in range(2)]


def test_consistency_function_is_the_identity_at_time_zero_and_x0_elsewhere():
    x, x0 = pair()
    assert torch.equal(consistency_function(x, x0, torch.zeros(3)), x)
    late = consistency_function(x, x0, torch.tensor([20.0, 500.0, 999.0], dtype=F64))
    torch.testing.assert_close(late, x0, atol=1e-4, rtol=1e-4)


def test_boundary_numbers_of_the_reference():
    """c_skip = sd^2 / ((10 t)^2 + sd^2), c_out = 10 t / sqrt((10 t)^2 + sd^2), sd = 0.5, by hand at t = 0.03."""
    one, zero, t = torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64), torch.tensor([0.03], dtype=F64)
    torch.testing.assert_close(consistency_function(one, zero, t).item(), 0.25 / (0.09 + 0.25))
    torch.testing.assert_close(consistency_function(zero, one, t).item(), 0.3 / (0.09 + 0.25) ** 0.5)


def test_a_network_that_knows_x0_is_consistent_along_the_ode():
    x0, noise = pair()
    sigma, sigma_prev = (torch.full((3,), s, dtype=F64) for s in (0.8, 0.7))
    x = FLOW.add_noise(x0, noise, sigma)
    x_prev = deterministic()(FLOW, x, x0, sigma, sigma_prev).mean
    loss = consistency_loss(*(consistency_function(v, x0, 1000 * s) for v, s in ((x, sigma), (x_prev, sigma_prev))))
    assert loss.loss < 1e-12


def test_huber_is_l1_far_and_scaled_squares_near():
    zero, far, near = (torch.full((1, 2), v, dtype=F64) for v in (0.0, 10.0, 1e-5))
    torch.testing.assert_close(consistency_loss(far, zero, 1e-3).loss.item(), 10.0 - 1e-3, rtol=1e-6, atol=0)
    torch.testing.assert_close(consistency_loss(near, zero, 1e-3).loss.item(), 1e-10 / 2e-3, rtol=1e-3, atol=0)
    torch.testing.assert_close(consistency_loss(far, zero).loss.item(), 100.0)


def test_only_the_student_gets_gradient():
    a, b = (v.requires_grad_() for v in pair())
    consistency_loss(a, b).loss.backward()
    assert b.grad is None
    torch.testing.assert_close(a.grad, 2 * (a - b).detach() / a.numel())


def test_guided_teacher_w_zero_is_the_conditional():
    cond, uncond = pair()
    assert torch.equal(guided(cond, uncond, torch.zeros(3)), cond)
    torch.testing.assert_close(guided(cond, uncond, torch.full((3,), 6.5)), uncond + 7.5 * (cond - uncond))


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
