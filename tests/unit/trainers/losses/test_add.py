"""ADD: the discriminator, its penalty, the student."""

from __future__ import annotations

import torch
from posttrain.trainers.losses.add import discriminator_loss, r1_penalty, student_loss

F64 = torch.float64


def pair(seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 2, 4, 4, dtype=F64, generator=g) for _ in range(2)]


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
