from __future__ import annotations

import math

import pytest
import torch
from posttrain.trainers.noise.paths import EPS, FLOW, PATHS, V, expand
from posttrain.trainers.noise.transitions import (
    TRANSITIONS,
    Gaussian,
    dance_sde,
    ddim,
    deterministic,
    flow_cps,
    flow_sde,
    gaussian_kl,
    log_prob,
    sample,
    transition_named,
)

F64 = torch.float64


def velocity_step(transition, file, prefix, velocity):
    """Golden flow files give a velocity, a step table and the entry's step."""
    dtype = F64 if prefix else torch.float32
    x, sigmas, i = file["in.sample"].to(dtype), file["in.sigmas"].to(dtype), file["in.step_index"]
    sigma, sigma_next = sigmas[i], sigmas[i + 1]
    g = transition(FLOW, x, FLOW.x0(x, velocity.to(dtype), sigma), sigma, sigma_next)
    return g, sigma - sigma_next


@pytest.mark.parametrize("prefix, tolerance", [("f64.", 1e-7), ("", 2e-5)])
def test_flow_sde_golden(golden, close, prefix, tolerance):
    file = golden("01a")
    out = file.view(prefix)
    velocity = file["in.model_output"].to(F64 if prefix else torch.float32).requires_grad_()
    g, delta = velocity_step(flow_sde(file.const("noise_level")), file, prefix, velocity)
    close(g.mean, out["out.mean"], tolerance)
    close(g.std, out["out.std_dev_t"] * delta.sqrt(), tolerance)
    close(sample(g, file["in.noise"].to(g.mean.dtype)), out["out.next_sample"], tolerance)
    lp = log_prob(out["out.next_sample"], g)
    close(lp, out["out.log_prob"], tolerance)
    (file["in.w"] * lp).sum().backward()
    close(velocity.grad, out["grad.sum_w_logprob__model_output"], tolerance * 10)


@pytest.mark.parametrize("prefix, tolerance", [("f64.", 1e-7), ("", 2e-5)])
def test_dance_sde_golden(golden, close, prefix, tolerance):
    file = golden("05b")
    out = file.view(prefix)
    velocity = file["in.model_output"]
    g, _ = velocity_step(dance_sde(file.const("eta")), file, prefix, velocity)
    close(g.mean, out["out.mean"], tolerance)
    close(sample(g, file["in.noise"].to(g.mean.dtype)), out["out.next_sample"], tolerance)
    close(log_prob(out["out.next_sample"], g), out["out.log_prob"], tolerance)
    euler, _ = velocity_step(deterministic(), file, prefix, velocity)
    close(euler.mean, out["out.mean_ode"], tolerance)


@pytest.mark.parametrize("prefix, tolerance", [("f64.", 1e-7), ("", 2e-5)])
def test_flow_cps_golden(golden, close, prefix, tolerance):
    file = golden("05c")
    out = file.view(prefix)
    velocity = file["in.model_output"].to(F64 if prefix else torch.float32).requires_grad_()
    g, _ = velocity_step(flow_cps(file.const("noise_level")), file, prefix, velocity)
    close(g.mean, out["out.mean"], tolerance)
    close(g.std, out["out.std_dev_t"], tolerance)
    close(sample(g, file["in.noise"].to(g.mean.dtype)), out["out.next_sample"], tolerance)
    noisy = g.std > 0
    assert 0 < noisy.sum() < len(noisy), "the file holds the last step, which CPS makes deterministic"
    kept = Gaussian(g.mean[noisy], g.std[noisy])
    close(log_prob(out["out.next_sample"][noisy], kept, "cps"), out["out.log_prob_own_sample"][noisy], tolerance)
    given = log_prob(out["in.next_sample_for_logprob"][noisy], kept, "cps")
    close(given, out["out.log_prob_given"][noisy], tolerance)
    (file["in.w"][noisy] * given).sum().backward()
    close(velocity.grad[noisy], out["grad.sum_w_logprob__model_output"][noisy], tolerance * 10)
    with pytest.raises(ValueError, match="without noise"):
        log_prob(out["out.next_sample"], g, "cps")


@pytest.mark.parametrize("case", ["epsilon.eta0", "epsilon.eta1", "v_prediction.eta0", "sample.eta0"])
def test_ddim_golden(golden, close, case):
    """DDPO's DDIM step is variance preserving; ours is the same step on x / sqrt(alpha-bar)."""
    file = golden("02a").view(case + ".")
    bar, bar_next = file["in.alphas_cumprod"][file["in.t"]], file["in.alphas_cumprod"][file["out.prev_t"]]
    sigma, sigma_next = ((1 - bar) / bar).sqrt(), ((1 - bar_next) / bar_next).sqrt()
    output = file["in.model_output"].clone().requires_grad_()
    x = file["in.sample"] / expand(bar.sqrt(), output)
    kind = case.split(".")[0]
    x0 = output if kind == "sample" else {"epsilon": EPS, "v_prediction": V}[kind].x0(x, output, sigma)
    g = ddim(file.const(case.split(".")[1]))(EPS, x, x0, sigma, sigma_next)
    scale = expand(bar_next.sqrt(), x)
    close(g.mean * scale, file["out.mean"])
    close(g.std * bar_next.sqrt(), file["out.std"])
    close(g.std.square() * bar_next, file.const(case.split(".")[1]) ** 2 * file["out.variance"])
    close(sample(g, file["in.noise"]) * scale, file["out.next_sample"])
    lp = log_prob(file["out.next_sample"] / scale, g)
    close(lp - 0.5 * bar_next.log(), file["out.log_prob"])
    (file["in.w"] * lp).sum().backward()
    close(output.grad, file["grad.sum_w_logprob__model_output"], 1e-6)


def state(path, seed=0, n=6):
    g = torch.Generator().manual_seed(seed)
    x, x0 = (torch.randn(n, 2, 3, 3, generator=g, dtype=F64) for _ in range(2))
    sigma = torch.linspace(0.95, 0.2, n, dtype=F64) * (1 if path == FLOW else 10)
    return x, x0, sigma, sigma * 0.8


@pytest.mark.parametrize("transition", [flow_sde(0.0), dance_sde(0.0), flow_cps(0.0), deterministic()])
def test_no_noise_is_eulers_step(transition, close):
    x, x0, sigma, sigma_next = state(FLOW)
    g = transition(FLOW, x, x0, sigma, sigma_next)
    velocity = FLOW.prediction(x, x0, sigma)
    close(g.mean, x + expand(sigma_next - sigma, x) * velocity, 1e-12)
    assert not g.std.any()


@pytest.mark.parametrize("path", [EPS, V])
def test_ddim_without_noise_is_eulers_step_of_the_ve_ode(path, close):
    x, x0, sigma, sigma_next = state(path)
    close(deterministic()(path, x, x0, sigma, sigma_next).mean,
          x + expand((sigma_next - sigma) / sigma, x) * (x - x0), 1e-12)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_ddim_step_to_zero_gives_x0(path, close):
    x, x0, sigma, _ = state(path)
    g = ddim(1.0)(path, x, x0, sigma, torch.zeros_like(sigma))
    close(g.mean, x0, 1e-12)
    assert not g.std.any()


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_ddim_with_the_true_x0_gives_the_true_marginal(path):
    """With x0 known, x_next is x0 plus noise of exactly s_next, for every eta."""
    x, x0, sigma, sigma_next = state(path)
    for eta in (0.0, 0.4, 1.0):
        g = ddim(eta)(path, x, x0, sigma, sigma_next)
        a, s = path.coefficients(sigma_next)
        coefficient = (g.mean - expand(a, x) * x0) / path.noise(x, x0, sigma)
        torch.testing.assert_close((coefficient[:, 0, 0, 0] ** 2 + g.std**2).sqrt(), s)


def marginal(path, transition, steps, sigma_max, data_std=0.5, end=0.02, n=40000):
    """Standard deviation at sigma `end` of sampling N(1, data_std^2) with its exact denoiser, and the true one."""
    noise = torch.Generator().manual_seed(3)
    sigmas = torch.linspace(sigma_max, end, steps + 1, dtype=F64)
    if path != FLOW:
        sigmas = torch.logspace(math.log10(sigma_max), math.log10(end), steps + 1, dtype=F64)
    a, s = path.coefficients(sigmas[:1])
    x = a + (a**2 * data_std**2 + s**2).sqrt() * torch.randn(n, 1, generator=noise, dtype=F64)
    for sigma, sigma_next in zip(sigmas[:-1].split(1), sigmas[1:].split(1)):
        a, s = path.coefficients(sigma)
        x0 = 1 + a * data_std**2 / (a**2 * data_std**2 + s**2) * (x - a)
        g = transition(path, x, x0, sigma.expand(n), sigma_next.expand(n))
        x = sample(g, torch.randn(n, 1, generator=noise, dtype=F64))
    a, s = path.coefficients(sigmas[-1])
    return x.mean().item(), x.std().item(), a.item(), (a**2 * data_std**2 + s**2).sqrt().item()


@pytest.mark.parametrize("path, transition, sigma_max", [
    (FLOW, flow_sde(0.7), 0.99), (FLOW, dance_sde(0.3), 0.99), (FLOW, ddim(1.0), 0.99), (FLOW, deterministic(), 0.99),
    (EPS, ddim(1.0), 10.0), (EPS, ddim(0.5), 10.0), (EPS, deterministic(), 10.0),
], ids=["flow_sde", "dance_sde", "flow-ddim1", "flow-ode", "eps-ddim1", "eps-ddim.5", "eps-ode"])
def test_stochastic_sampling_keeps_the_odes_marginal(path, transition, sigma_max):
    mean, std, true_mean, true_std = marginal(path, transition, 300, sigma_max)
    assert abs(mean - true_mean) < 0.02
    assert abs(std / true_std - 1) < 0.025


def test_cps_does_not_keep_the_marginal():
    """Known and documented: its noise is O(1) a step, so diversity shrinks."""
    _, std, _, true_std = marginal(FLOW, flow_cps(0.8), 300, 0.99)
    assert std / true_std < 0.9


@pytest.mark.parametrize("name", [n for n in TRANSITIONS if n != "deterministic"])
def test_replaying_a_sample_reproduces_its_log_prob(name):
    transition = transition_named(name, 0.6, FLOW)
    x, x0, sigma, sigma_next = state(FLOW)
    noise = torch.randn(x.shape, dtype=F64, generator=torch.Generator().manual_seed(5))
    g = transition(FLOW, x, x0, sigma, sigma_next)
    x_next = sample(g, noise)
    form = TRANSITIONS[name].form
    first = log_prob(x_next, g, form)
    assert torch.equal(first, log_prob(x_next, transition(FLOW, x, x0, sigma, sigma_next), form))
    if form == "gaussian":
        normal = torch.distributions.Normal(g.mean, expand(g.std, x))
        torch.testing.assert_close(first, normal.log_prob(x_next).flatten(1).mean(1))


def test_gaussian_kl_agrees_with_monte_carlo():
    noise = torch.Generator().manual_seed(2)
    mean, ref = torch.randn(2, 1, 4, dtype=F64, generator=noise), torch.randn(2, 1, 4, dtype=F64, generator=noise)
    std = torch.tensor([1.3, 0.7], dtype=F64)
    draws = [sample(Gaussian(mean, std), torch.randn(2, 1, 4, dtype=F64, generator=noise)) for _ in range(20000)]
    values = torch.stack([log_prob(x, Gaussian(mean, std)) - log_prob(x, Gaussian(ref, std)) for x in draws])
    exact = gaussian_kl(mean, ref, std)
    error = values.std(0) / len(draws) ** 0.5
    assert ((values.mean(0) - exact).abs() < 4 * error).all() and (error < 0.05 * exact).all()
    torch.testing.assert_close(gaussian_kl(mean, mean, std), torch.zeros(2, dtype=F64))


def test_expected_log_prob_gradient_is_zero():
    """E over the step's noise of grad log_prob is 0 on-policy, so a constant advantage teaches nothing."""
    noise = torch.randn(200000, 1, 1, dtype=F64, generator=torch.Generator().manual_seed(4))
    mean = torch.zeros(1, 1, dtype=F64, requires_grad=True)
    g = Gaussian(mean.expand(len(noise), 1, 1), torch.full((len(noise),), 0.5, dtype=F64))
    log_prob(sample(g, noise), g).mean().backward()
    assert mean.grad.abs() < 4 * 2 / len(noise) ** 0.5


def test_the_next_state_gets_no_gradient():
    x, x0, sigma, sigma_next = state(FLOW)
    x0.requires_grad_()
    g = flow_sde(0.7)(FLOW, x, x0, sigma, sigma_next)
    own = torch.autograd.grad(log_prob(sample(g, x), g).sum(), x0, retain_graph=True)[0]
    fixed = torch.autograd.grad(log_prob(sample(g, x).detach(), g).sum(), x0)[0]
    assert torch.equal(own, fixed) and own.abs().sum() > 0


@pytest.mark.parametrize("form", ["gaussian", "cps"])
def test_a_step_without_noise_has_no_log_prob(form):
    x, x0, sigma, sigma_next = state(FLOW)
    g = deterministic()(FLOW, x, x0, sigma, sigma_next)
    with pytest.raises(ValueError, match="eta 1"):
        log_prob(x, g, form)
    with pytest.raises(ValueError, match="without noise"):
        gaussian_kl(x, x, g.std)


def test_flow_sde_first_step_is_finite_at_sigma_one():
    x, x0, _, _ = state(FLOW, n=1)
    g = flow_sde(0.7)(FLOW, x, x0, torch.ones(1, dtype=F64), torch.full((1,), 0.9, dtype=F64))
    assert g.mean.isfinite().all()
    torch.testing.assert_close(g.std, 0.7 * torch.tensor([(1 / 0.1) ** 0.5 * 0.1**0.5], dtype=F64))


def test_wrong_choices_say_what_to_use():
    with pytest.raises(ValueError, match="eta"):
        ddim(1.5)
    with pytest.raises(ValueError, match="ddim"):
        transition_named("flow_sde", 0.7, EPS)
    with pytest.raises(ValueError, match="flow_cps"):
        transition_named("cps", 0.7, FLOW)
    for factory in (flow_sde, dance_sde, flow_cps):
        with pytest.raises(ValueError):
            factory(-0.1)
    with pytest.raises(ValueError, match="form"):
        log_prob(torch.zeros(1, 1), Gaussian(torch.zeros(1, 1), torch.ones(1)), "laplace")


def test_flow_sde_begins_with_finite_noise_at_every_shift():
    """A shift s puts the largest sigma at s / (1 + (s - 1)), which float32 rounds below 1 for some; the step is that of 1."""
    for hundredths in range(100, 2001):
        shift = hundredths / 100
        times = torch.linspace(1, 0, 11)
        sigmas = shift * times / (1 + (shift - 1) * times)
        for first in (sigmas[:1], torch.nextafter(torch.ones(1), torch.zeros(1)), torch.full((1,), 1 - 3e-7)):
            x = torch.zeros(1, 2)
            std = flow_sde(0.7)(FLOW, x, x, first, sigmas[1:2]).std
            exact = flow_sde(0.7)(FLOW, x, x, torch.ones(1), sigmas[1:2]).std
            torch.testing.assert_close(std, exact, rtol=1e-4, atol=0.0)


def test_flow_sde_takes_the_next_level_within_rounding_of_one_only():
    near, at, to = (torch.tensor([v], dtype=torch.float64) for v in (1 - 1.5e-5, 1 - 0.5e-5, 0.9))
    x, x0 = torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    one, same = (flow_sde(1.0)(FLOW, x, x0, sigma, to).std.item() for sigma in (near, at))
    assert one == pytest.approx(math.sqrt((1 - 1.5e-5) / 1.5e-5 * (0.1 - 1.5e-5)), rel=1e-6)
    assert same == pytest.approx(math.sqrt((1 - 0.5e-5) / 0.1 * (0.1 - 0.5e-5)), rel=1e-6)
