from __future__ import annotations

import math

import pytest
import torch
from posttrain.trainers.losses.error import squared_error
from posttrain.trainers.losses.mapo import mapo_loss, phi
from posttrain.trainers.noise.paths import V

F64 = torch.float64


@pytest.mark.parametrize("case", ["a", "b", "v"])
def test_golden(golden, close, case):
    file = golden("04e").view(case + ".")
    prediction = file["in.model_pred"].clone().requires_grad_()
    target = file["out.target"] if case == "v" else file["in.target"]
    winner, loser = squared_error(prediction, target).chunk(2)
    close(winner, file["out.mse_w"])
    close(loser, file["out.mse_l"])
    out = mapo_loss(winner, loser, file.const("beta_mapo"), file.const("snr_value"), file.const("num_train_timesteps"))
    close(out.loss, file["out.loss"])
    close(winner.mean() - out.loss, file["out.ratio_losses"].mean(), 1e-6)
    out.loss.backward()
    close(prediction.grad, file["grad.model_pred"], 1e-6)


def test_golden_v_target_is_the_paths(golden, close):
    file = golden("04e").view("v.")
    bar = file["in.alphas_cumprod"][file["in.timesteps"]].to(F64)
    close(V.target(file["in.latents"], file["in.target"], ((1 - bar) / bar).sqrt()), file["out.target"], 1e-6)


def test_equal_errors_cost_beta_ln_2():
    error = torch.tensor([0.2, 0.4], dtype=F64)
    assert mapo_loss(error, error).loss.item() == pytest.approx(0.3 + 0.1 * math.log(2))


def test_phi_is_smooth_through_zero():
    m = torch.tensor([0.0, 1e-9, 1e-5, 2e-5, 3e-5], dtype=F64, requires_grad=True)
    values = phi(m)
    torch.testing.assert_close(values, 1 - m / 4, atol=1e-10, rtol=0)
    (slope,) = torch.autograd.grad(values.sum(), m)
    torch.testing.assert_close(slope, torch.full((5,), -0.25, dtype=F64), atol=1e-5, rtol=0)
    single = phi(torch.tensor([1e-3, 2e-5, 1e-6]))
    torch.testing.assert_close(single, torch.tensor([1 - 2.5e-4, 1 - 5e-6, 1.0]), atol=1e-6, rtol=0)
