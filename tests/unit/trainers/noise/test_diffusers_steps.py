"""diffusers' schedulers as judges of paths and transitions: the same state and prediction, the same step.

Theirs are variance preserving, z = alpha x, with alpha^2 their alpha-bar: a mean or a deviation of ours is theirs divided by
alpha of the next level, and a log-probability of ours is theirs plus log(alpha).
"""

from __future__ import annotations

import pytest
import torch
from posttrain.trainers.noise.paths import EPS, FLOW, Path, V, expand
from posttrain.trainers.noise.transitions import (
    Gaussian,
    ddim,
    deterministic,
    flow_cps,
    gaussian_kl,
    log_prob,
    sample,
)

diffusers = pytest.importorskip("diffusers")
F64 = torch.float64
SHAPE = (2, 3, 4, 4)
STABLE = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
KINDS = {"epsilon": EPS, "v_prediction": V}
NOTHING = torch.zeros(SHAPE, dtype=F64)


def drawn(*names: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(SHAPE, generator=generator, dtype=F64) for _ in names]


def exact(scheduler):
    """Its table in float64, so that rounding hides nothing."""
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.betas = scheduler.betas.double()
    scheduler.final_alpha_cumprod = torch.as_tensor(getattr(scheduler, "final_alpha_cumprod", 1.0)).double()
    return scheduler


def scheduler_of(name: str, kind: str, steps: int, **settings):
    scheduler = getattr(diffusers, name)(**STABLE, prediction_type=kind, **settings)
    scheduler.set_timesteps(steps)
    return exact(scheduler)


def alpha_bars(scheduler, place: int) -> tuple[torch.Tensor, torch.Tensor]:
    """At a step and after it; below the first level there is none but the clean image."""
    times = scheduler.timesteps
    t = int(times[place])
    back = t - scheduler.config.num_train_timesteps // len(times)
    after = scheduler.alphas_cumprod[back] if back >= 0 else scheduler.final_alpha_cumprod
    return scheduler.alphas_cumprod[t], after


def sigma_of(bar: torch.Tensor) -> torch.Tensor:
    return ((1 - bar) / bar).sqrt().expand(SHAPE[0])


def our_step(path: Path, transition, z, output, bar, after) -> Gaussian:
    """In diffusers' convention, for a state of it."""
    x, sigma = z / bar.sqrt(), sigma_of(bar)
    found = transition(path, x, path.x0(x, output, sigma), sigma, sigma_of(after))
    return Gaussian(found.mean * after.sqrt(), found.std * after.sqrt())


def same(found, expected, tolerance: float = 1e-11) -> None:
    torch.testing.assert_close(found, expected.to(found.dtype).expand_as(found), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("steps", [7, 50, 1000])
@pytest.mark.parametrize("kind", KINDS)
def test_ddim_with_all_noise_is_the_ddpm_posterior(kind, steps):
    """Mean and deviation of every kind of step: the first ones, the middle, the last with noise."""
    scheduler = scheduler_of("DDPMScheduler", kind, steps, variance_type="fixed_small")
    for place in (0, 1, steps // 2, steps - 2):
        bar, after = alpha_bars(scheduler, place)
        z, output = drawn(1, 2)
        found = our_step(KINDS[kind], ddim(1.0), z, output, bar, after)
        t = scheduler.timesteps[place]
        std = scheduler._get_variance(t).sqrt()
        theirs = scheduler.step(output, t, z, generator=torch.Generator().manual_seed(9)).prev_sample
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9), dtype=F64)
        same(found.std, std)
        same(found.mean, theirs - std * noise)
        same(sample(found, noise), theirs)


@pytest.mark.parametrize("eta", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("kind", KINDS)
def test_ddim_is_diffusers_ddim(kind, spacing, eta):
    """Mean, deviation and log-probability of what was drawn."""
    steps = 10
    scheduler = scheduler_of("DDIMScheduler", kind, steps, timestep_spacing=spacing, set_alpha_to_one=False)
    for place in (0, 4, steps - 2):
        bar, after = alpha_bars(scheduler, place)
        z, output, noise = drawn(1, 2, 3)
        found = our_step(KINDS[kind], ddim(eta), z, output, bar, after)
        t = scheduler.timesteps[place]
        mean = scheduler.step(output, t, z, eta=eta, variance_noise=NOTHING).prev_sample
        theirs = scheduler.step(output, t, z, eta=eta, variance_noise=noise).prev_sample
        std = eta * scheduler._get_variance(t, t - 1000 // steps).sqrt()
        same(found.mean, mean)
        same(found.std, std)
        same(sample(found, noise), theirs)
        if eta:
            density = torch.distributions.Normal(mean, std).log_prob(theirs).flatten(1).mean(1)
            same(log_prob(theirs, found), density)
            shifted = Gaussian(found.mean / after.sqrt(), found.std / after.sqrt())  # as the pack keeps it
            same(log_prob(theirs / after.sqrt(), shifted), density + after.sqrt().log())
            other = mean + 0.01 * noise
            normal = [torch.distributions.Normal(m, std.expand_as(m)) for m in (mean, other)]
            kl = torch.distributions.kl_divergence(*normal).flatten(1).mean(1)
            same(gaussian_kl(mean, other, found.std), kl, 1e-9)


def test_the_last_step_ends_at_the_clean_image_by_design():
    """Stable Diffusion's own settings end a step above it (set_alpha_to_one=False); the pack's ends at sigma 0, as with True."""
    z, output, noise = drawn(1, 2, 3)
    whole, short = (scheduler_of("DDIMScheduler", "epsilon", 10, set_alpha_to_one=one) for one in (True, False))
    found = our_step(EPS, ddim(1.0), z, output, *alpha_bars(whole, 9))
    last = whole.timesteps[-1]
    same(found.mean, whole.step(output, last, z, eta=1.0, variance_noise=noise).prev_sample)
    assert not found.std.any()
    left = short.step(output, last, z, eta=1.0, variance_noise=NOTHING).prev_sample
    same(our_step(EPS, ddim(1.0), z, output, *alpha_bars(short, 9)).mean, left)
    assert (left - found.mean).abs().max() > 1e-3


def test_from_zero_terminal_snr():
    """Nothing of the image is left there: v is minus the image, and the step's noise is that of its next level."""
    scheduler = scheduler_of(
        "DDIMScheduler", "v_prediction", 10, timestep_spacing="trailing", rescale_betas_zero_snr=True, set_alpha_to_one=True
    )
    bar, after = alpha_bars(scheduler, 0)
    assert float(bar) == 0.0 and int(scheduler.timesteps[0]) == 999
    z, output, noise = drawn(1, 2, 3)
    x = 1e7 * z  # sigma has no end there: this one is near enough, an alpha-bar of 1e-14
    for eta in (0.0, 0.5, 1.0):
        sigma = torch.full((SHAPE[0],), 1e7, dtype=F64)
        found = ddim(eta)(V, x, V.x0(x, output, sigma), sigma, sigma_of(after))
        theirs = scheduler.step(output, scheduler.timesteps[0], z, eta=eta, variance_noise=noise).prev_sample
        same(sample(found, noise) * after.sqrt(), theirs, 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_and_targets_are_those_of_training(kind):
    scheduler = exact(diffusers.DDPMScheduler(**STABLE, prediction_type=kind))
    x0, noise = drawn(1, 2)
    times = torch.tensor([20, 800])
    bar = scheduler.alphas_cumprod[times]
    sigma = ((1 - bar) / bar).sqrt()
    z = scheduler.add_noise(x0, noise, times)
    same(KINDS[kind].add_noise(x0, noise, sigma) * expand(bar.sqrt(), x0), z)
    target = noise if kind == "epsilon" else scheduler.get_velocity(x0, noise, times)
    same(KINDS[kind].target(x0, noise, sigma), target)


def flow_scheduler(**settings):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**settings)
    shifted = {"mu": 0.8} if settings.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(10, **shifted)
    return scheduler


@pytest.mark.parametrize("settings", [dict(shift=1.0), dict(shift=3.0), dict(use_dynamic_shifting=True)], ids=str)
def test_the_quiet_flow_step_is_eulers(settings):
    """diffusers steps in float32."""
    scheduler = flow_scheduler(**settings)
    x, velocity = (value.float() for value in drawn(1, 2))
    for place in (0, 5, 9):
        sigma, after = (scheduler.sigmas[place + k].expand(SHAPE[0]) for k in (0, 1))
        scheduler._step_index = place
        theirs = scheduler.step(velocity, scheduler.timesteps[place], x).prev_sample
        found = deterministic()(FLOW, x, FLOW.x0(x, velocity, sigma), sigma, after)
        same(found.mean, theirs, 1e-5)
        assert not found.std.any()


def test_their_stochastic_flow_step_is_cps_with_all_noise():
    scheduler = flow_scheduler(shift=3.0, stochastic_sampling=True)
    x, velocity = (value.float() for value in drawn(1, 2))
    sigma, after = (scheduler.sigmas[3 + k].expand(SHAPE[0]) for k in (0, 1))
    scheduler._step_index = 3
    torch.manual_seed(9)  # older releases ask no generator here
    theirs = scheduler.step(velocity, scheduler.timesteps[3], x, generator=torch.Generator().manual_seed(9)).prev_sample
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(9))
    found = flow_cps(1.0)(FLOW, x, FLOW.x0(x, velocity, sigma), sigma, after)
    same(sample(found, noise), theirs, 1e-5)


def test_flow_noise_is_theirs():
    scheduler = flow_scheduler(shift=3.0)
    x0, noise = (value.float() for value in drawn(1, 2))
    sigma = scheduler.sigmas[[2, 7]]
    same(FLOW.add_noise(x0, noise, sigma), scheduler.scale_noise(x0, scheduler.timesteps[[2, 7]], noise), 1e-6)
