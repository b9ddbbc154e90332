from __future__ import annotations

import pytest
import torch
from posttrain.trainers.losses.awm import awm_loss, matching_log_prob
from posttrain.trainers.losses.error import squared_error
from posttrain.trainers.noise.paths import FLOW

F64 = torch.float64
NAMES = {"Uniform": "uniform", "t": "t", "tpow2": "t squared", "huber": "huber", "ghuber": "ghuber"}
CASES = [
    "Uniform.exp_first.kl_Uniform", "Uniform.sum_first.kl_ELBO", "ghuber.exp_first.kl_ELBO.advmax2",
    "huber.sum_first.kl_Uniform", "t.sum_first.kl_ELBO.advmax1", "tpow2.sum_first.kl_Uniform",
]


@pytest.mark.parametrize("case", CASES)
def test_golden(golden, close, case):
    file = golden("05e").view(case + ".")
    weighting, order, kl_weight, *maximum = case.split(".")
    steps, most = int(file.const("train_timesteps")), file.const("adv_clip_max")
    assert len(file["in.t"]) == steps * file.const("batch_size")
    close(FLOW.add_noise(file["in.clean_latents"], file["in.noise"], file["in.t"]), file["in.noised_latents"])
    output = file["in.model_output"].clone().requires_grad_()
    target = file["in.noise"] - file["in.clean_latents"]
    power = file.const("ghuber_power")
    lp, old = (matching_log_prob(squared_error(o, target), file["in.t"], NAMES[weighting], power)
               for o in (output, file["in.old_output"]))
    close(lp, file["out.log_prob"])
    close(old, file["out.old_log_prob"])
    advantages = file["in.advantages"].clamp(-most, most)
    if maximum:
        advantages = advantages / most * float(maximum[0].removeprefix("advmax"))
    if order == "sum_first":
        lp, old = lp.reshape(steps, -1).mean(0), old.reshape(steps, -1).mean(0)
    else:
        advantages = advantages.repeat(steps)
    weight = 1 / (2 * file["out.std_dev_t"] ** 2) if kl_weight == "kl_ELBO" else 1.0
    kl, ema_kl = (weight * squared_error(output, file[f"in.{n}_output"]) for n in ("ref", "ema"))
    out = awm_loss(
        lp, old, advantages, file.const("clip_range"), ema_kl, file.const("ema_beta"), kl, file.const("beta"))
    close(out.ratio - 1, file["out.ratio"] - 1, 1e-6)
    for name in ("loss", "policy_loss", "kl", "ema_kl"):
        close(getattr(out, name), file[f"out.{name}" + ("_loss" if name.endswith("kl") else "")])
    out.loss.backward()
    close(output.grad, file["grad.model_output"], 1e-6)


def test_ghuber_gradient_does_not_depend_on_the_errors_scale():
    for power, exponent in ((1.0, 1.0), (0.5, 0.0), (0.25, -0.5)):
        prediction = torch.tensor([[1.0], [8.0]], dtype=F64, requires_grad=True)
        lp = matching_log_prob(squared_error(prediction, torch.zeros(2, 1, dtype=F64)), torch.ones(2, dtype=F64),
                               "ghuber", power)
        lp.sum().backward()
        torch.testing.assert_close(prediction.grad[1] / prediction.grad[0], torch.tensor([8.0**exponent], dtype=F64))


def test_equal_advantages_at_ratio_one_are_fine_tuning():
    error = torch.tensor([0.3, 0.9], dtype=F64, requires_grad=True)
    t = torch.tensor([0.2, 0.7], dtype=F64)
    lp = matching_log_prob(error, t, "t")
    (gradient,) = torch.autograd.grad(awm_loss(lp, lp, torch.ones(2, dtype=F64)).loss, error)
    torch.testing.assert_close(gradient, t / 2)


def test_error_zero_has_a_finite_gradient():
    for weighting in NAMES.values():
        error = torch.zeros(1, dtype=F64, requires_grad=True)
        lp = matching_log_prob(error, torch.ones(1, dtype=F64), weighting)
        (gradient,) = torch.autograd.grad(lp.sum(), error)
        assert lp == 0 and gradient.isfinite().all()


def test_missing_terms_and_names():
    lp = torch.zeros(2, dtype=F64)
    with pytest.raises(ValueError, match="ema_kl"):
        awm_loss(lp, lp, lp, ema_beta=1.0)
    with pytest.raises(ValueError, match="ghuber"):
        matching_log_prob(lp, lp, "l1")
