from __future__ import annotations

import math

import pytest
import torch
from posttrain.trainers.losses.diffusion_dpo import diffusion_dpo_loss
from posttrain.trainers.losses.error import squared_error
from posttrain.trainers.noise.paths import EPS, FLOW, V, expand

F64 = torch.float64


def dpo(prediction, reference, target, beta):
    """The references' layout: winners in the first half of the batch."""
    error, ref = squared_error(prediction, target), squared_error(reference, target)
    return diffusion_dpo_loss(*error.chunk(2), *ref.chunk(2), beta), error, ref


@pytest.mark.parametrize("case", ["a", "b"])
def test_golden_eps(golden, close, case):
    file = golden("03a").view(case + ".")
    prediction = file["in.model_pred"].clone().requires_grad_()
    out, error, ref = dpo(prediction, file["in.ref_pred"], file["out.target"], file.const("beta_dpo"))
    close(out.loss, file["out.loss"])
    close(out.inside, file["out.inside_term"], 1e-6)
    close(error.chunk(2)[0] - error.chunk(2)[1], file["out.model_diff"])
    close(error.mean(), file["out.raw_model_loss"])
    close(ref.mean(), file["out.raw_ref_loss"])
    close(ref.chunk(2)[0] - ref.chunk(2)[1], file["out.ref_diff"], 1e-6)
    assert out.accuracy.item() == pytest.approx(file["out.implicit_acc"].item())
    out.loss.backward()
    close(prediction.grad, file["grad.model_pred"], 1e-6)
    assert not file["grad.ref_pred"].any(), "the official code lets no gradient into the reference either"


def test_golden_eps_noising_is_the_paths(golden, close):
    """One noise and timestep for both halves; our x is theirs over sqrt(alpha-bar)."""
    file = golden("03a")
    bar = file["in.alphas_cumprod"][file["out.timesteps"]].to(F64)
    x = EPS.add_noise(file["in.latents"], file["out.target"], ((1 - bar) / bar).sqrt())
    close(x * expand(bar.sqrt(), x), file["out.noisy_latents"], 1e-6)
    for given, used in (("in.noise", "out.target"), ("in.timesteps", "out.timesteps")):
        assert torch.equal(*file[used].chunk(2)) and torch.equal(file[given].chunk(2)[0], file[used].chunk(2)[0])


def test_golden_sft_is_the_plain_error(golden, close):
    file = golden("03a").view("sft.")
    prediction = file["in.model_pred"].clone().requires_grad_()
    loss = squared_error(prediction, file["out.target"]).mean()
    close(loss, file["out.loss"], 1e-6)
    loss.backward()
    close(prediction.grad, file["grad.model_pred"], 1e-6)


@pytest.mark.parametrize("precision, tolerance", [("f64.", 1e-7), ("", 1e-4)])
def test_golden_flow(golden, close, precision, tolerance):
    file = golden("03b").view(precision)
    dtype = F64 if precision else torch.float32
    x0, noise, sigma = (file[f"in.{n}"].to(dtype) for n in ("x0", "noise", "sigma"))
    prediction = file["in.model_pred"].to(dtype).requires_grad_()
    out, error, ref = dpo(prediction, file["in.ref_pred"].to(dtype), FLOW.target(x0, noise, sigma), file.const("beta"))
    close(FLOW.add_noise(x0, noise, sigma), file["out.noisy_input"], 1e-6)
    close(error, torch.cat([file["out.model_w_err"], file["out.model_l_err"]]), tolerance)
    close(ref, torch.cat([file["out.ref_w_err"], file["out.ref_l_err"]]), tolerance)
    close(out.inside, file["out.inside_term"], tolerance)
    close(out.loss, file["out.loss"], tolerance)
    out.loss.backward()
    close(prediction.grad, file["grad.model_pred"], tolerance * 10)
    if precision:
        close(out.loss, file["flowfactory.f64.out.loss"])
        rewards = (file[f"flowfactory.f64.out.implicit_reward_{n}"] for n in ("chosen", "rejected"))
        close(torch.stack([out.winner_gap, out.loser_gap]),
              torch.stack([-2 / file.const("beta") * r.mean() for r in rewards]))
        theirs = torch.cat([file[f"flowfactory.f64.grad.{n}_pred"] for n in ("chosen", "rejected")])
        close(prediction.grad, theirs, 1e-6)
        assert out.accuracy.item() == pytest.approx(file["flowfactory.f64.out.implicit_accuracy"].item())


@pytest.mark.parametrize("kind, path", [("epsilon", EPS), ("v_prediction", V)])
def test_golden_diffusers_has_no_half(golden, close, kind, path):
    """diffusers' SD1.5 script leaves out the 1/2: its beta is half of ours."""
    file = golden("03c").view(f"{kind}.").view(f"{kind}.sigmoid.")
    bar = file["in.alphas_cumprod"][file["in.timesteps"]].to(F64)
    noise = file["in.noise"].chunk(2)[0].repeat(2, 1, 1, 1)
    target = path.target(file["in.latents"], noise, ((1 - bar) / bar).sqrt())
    close(target, file["out.target"], 1e-6)
    x = path.add_noise(file["in.latents"], noise, ((1 - bar) / bar).sqrt())
    close(x * expand(bar.sqrt(), x), file["out.noisy_latents"], 1e-6)
    prediction = file["in.model_pred"].clone().requires_grad_()
    out, _, _ = dpo(prediction, file["in.ref_pred"], file["out.target"], 2 * file.const("beta_dpo"))
    close(out.loss, file["out.loss"])
    close(out.inside, file.const("beta_dpo") * file["out.logits"], 1e-6)
    assert out.accuracy.item() == pytest.approx(file["out.implicit_acc"].item())
    out.loss.backward()
    close(prediction.grad, file["grad.model_pred"], 1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_golden_hinge_differs_by_its_last_function_only(golden, close, kind):
    """diffusers' other loss, which we do not offer: relu(1 - beta logits), with the same gradient into the logits."""
    file = golden("03c").view(f"{kind}.").view(f"{kind}.hinge.")
    prediction = file["in.model_pred"].clone().requires_grad_()
    error, ref = (squared_error(p, file["out.target"]).chunk(2) for p in (prediction, file["in.ref_pred"]))
    logits = (ref[0] - ref[1]) - (error[0] - error[1])
    beta = file.const("beta_dpo")
    ours = diffusion_dpo_loss(*error, *ref, 2 * beta)
    close(ours.inside, beta * file["out.logits"], 1e-6)
    assert ours.accuracy.item() == pytest.approx(file["out.implicit_acc"].item())
    loss = torch.relu(1 - beta * logits).mean()
    close(loss, file["out.loss"])
    loss.backward()
    close(prediction.grad, file["grad.model_pred"], 1e-6)


def test_start_is_ln_2_with_a_quarter_beta_gradient():
    w, l = (torch.tensor(v, dtype=F64, requires_grad=True) for v in ([0.3, 0.2], [0.4, 0.1]))
    out = diffusion_dpo_loss(w, l, w, l, 2000.0)
    assert out.loss.item() == pytest.approx(math.log(2)) and out.accuracy == 0.5
    out.loss.backward()
    torch.testing.assert_close(w.grad, torch.full((2,), 2000.0 / 4 / 2, dtype=F64))
    torch.testing.assert_close(l.grad, -w.grad)


def test_swapping_winner_and_loser_mirrors_inside():
    a, b, c, d = (torch.rand(3, dtype=F64, generator=torch.Generator().manual_seed(i)) for i in range(4))
    torch.testing.assert_close(
        diffusion_dpo_loss(a, b, c, d).inside, -diffusion_dpo_loss(b, a, d, c).inside)
