from __future__ import annotations

import pytest
import torch
from posttrain.trainers.losses.diffusion_dpo import diffusion_dpo_loss
from posttrain.trainers.losses.error import squared_error
from posttrain.trainers.losses.sdpo import loser_scale, scale_gradient

F64 = torch.float64


def batch(agree=0.9, n=5):
    g = torch.Generator().manual_seed(0)
    target, e_w, other = (torch.randn(n, 2, 3, 3, dtype=F64, generator=g) for _ in range(3))
    return target, target + e_w, target + 2 * (agree * e_w + 0.2 * other)


def test_summing_over_the_batch_gives_the_official_scalar():
    """One pair that is the whole batch laid out as one: dot products then sum over everything."""
    target, w, l = batch()
    mu = 0.6
    (g_w,), (g_l,) = ([v.detach().requires_grad_()] for v in (w, l))
    a = torch.autograd.grad(((g_w - target) ** 2).mean(), g_w)[0]
    b = torch.autograd.grad(((g_l - target) ** 2).mean(), g_l)[0]
    official = ((1 - mu) * a.square().sum() / (a * b).sum()).clamp(0, 1)
    flat = [t.reshape(1, -1) for t in (w, target, l, target)]
    torch.testing.assert_close(loser_scale(*flat, mu)[0], official)
    assert 0 < official < 1 and loser_scale(w, target, l, target, mu).unique().numel() == 5


@pytest.mark.parametrize("mu", [0.0, 0.6, 1.0])
def test_a_small_step_never_raises_any_winners_error(mu):
    """In prediction space both images share one move: -(gradient of winner) + lambda (gradient of loser)."""
    target, w, l = batch()
    scale = loser_scale(w, target, l, target, mu).reshape(-1, 1, 1, 1)
    step = 1e-4 * (-(w - target) + scale * (l - target))
    before, after = squared_error(w, target), squared_error(w + step, target)
    assert (after <= before + 1e-7 * before).all(), "to first order in the step of 1e-4"
    assert (before - after >= mu * 1.99e-4 * before - 1e-7 * before).all()
    unsafe = squared_error(w + 1e-4 * (-(w - target) + (l - target)), target)
    assert (unsafe > before + 1e-5 * before).all(), "without the safeguard the winner gets worse"


def test_no_limit_where_the_gradients_disagree():
    target, w, l = batch(agree=-0.9)
    assert loser_scale(w, target, l, target).tolist() == [1.0] * 5


def test_values_stay_and_only_the_losers_gradient_shrinks():
    target, w, l = batch()
    w, l = w.requires_grad_(), l.requires_grad_()
    ref = torch.ones(5, dtype=F64)
    scale = loser_scale(w, target, l, target, 0.6)
    errors = squared_error(w, target), squared_error(l, target)
    plain = diffusion_dpo_loss(*errors, ref, ref, 2.0)
    safe = diffusion_dpo_loss(errors[0], scale_gradient(errors[1], scale), ref, ref, 2.0)
    torch.testing.assert_close(plain.loss, safe.loss)
    g_w, g_l = torch.autograd.grad(plain.loss, (w, l), retain_graph=True)
    s_w, s_l = torch.autograd.grad(safe.loss, (w, l))
    torch.testing.assert_close(g_w, s_w)
    torch.testing.assert_close(g_l * scale.reshape(-1, 1, 1, 1), s_l)


def test_mu_outside_its_range():
    with pytest.raises(ValueError, match="mu"):
        loser_scale(*[torch.zeros(1, 1)] * 4, mu=1.5)
