"""diffusers' schedules as judges of the noise levels that the policy reads of the host's schedulers.

Which of ComfyUI's schedulers is which spacing of diffusers': "simple" is trailing, "ddim_uniform" is leading, "normal" is
linspace, "karras" is use_karras_sigmas. Where they differ by design, a test says so by name.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import comfy.model_sampling as host
import numpy as np
import pytest
import torch
from posttrain.trainers.policy.levels import sigmas_of

diffusers = pytest.importorskip("diffusers")
STABLE = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
DIVIDING = (2, 10, 20, 25, 50, 250)  # of the model's 1000 steps
OTHER = (7, 30, 33)
TABLE = 2e-5  # diffusers takes 1 - alpha-bar in float32, of which the first levels keep no more digits


def discrete(zsnr: bool = False):
    """Of Stable Diffusion, as the host makes it for a checkpoint."""
    return host.ModelSamplingDiscrete(SimpleNamespace(sampling_settings={"zsnr": zsnr}))


def static_flow(shift: float):
    return host.ModelSamplingDiscreteFlow(SimpleNamespace(sampling_settings={"shift": shift}))


def flux(mu: float):
    return host.ModelSamplingFlux(SimpleNamespace(sampling_settings={"shift": mu}))


def euler(steps: int, **settings):
    scheduler = diffusers.EulerDiscreteScheduler(**STABLE, **settings)
    scheduler.set_timesteps(steps)
    return scheduler


def flow(sigmas=None, steps: int | None = None, mu: float | None = None, **settings):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**settings)
    scheduler.set_timesteps(steps, sigmas=sigmas, mu=mu)
    return scheduler


def falling(steps: int) -> np.ndarray:
    """What the pipelines of SD3.5 and Flux hand their scheduler."""
    return np.linspace(1.0, 1 / steps, steps)


def times_of(sampling, sigmas: torch.Tensor) -> list[float]:
    """What the host tells the network for each level but the last."""
    return sampling.timestep(sigmas[:-1]).tolist()


def close(found, expected, tolerance: float = 2e-6) -> None:
    found, expected = (torch.as_tensor(value).double() for value in (found, expected))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=1e-7)


@pytest.mark.parametrize("zsnr", [False, True])
def test_the_models_own_levels(zsnr):
    theirs = diffusers.DDPMScheduler(**STABLE, rescale_betas_zero_snr=zsnr).alphas_cumprod.double()
    bars = 1 / (1 + discrete(zsnr).sigmas.double() ** 2)
    if not zsnr:
        close(bars, theirs, 1e-5)
    else:
        close(bars[:-1], theirs[:-1], 2e-4)


def test_zero_terminal_snr_ends_a_hair_above_zero_by_design():
    """diffusers' table ends at 0 and its Euler at 2^-24; the host's at the number of one published model."""
    sampling = discrete(zsnr=True)
    last = 1 / (1 + float(sampling.sigmas[-1]) ** 2)
    assert float(diffusers.DDPMScheduler(**STABLE, rescale_betas_zero_snr=True).alphas_cumprod[-1]) == 0.0
    scheduler = euler(10, timestep_spacing="trailing", rescale_betas_zero_snr=True, prediction_type="v_prediction")
    theirs = 1 / (1 + float(scheduler.sigmas[0]) ** 2)
    assert last == pytest.approx(4.8973451890853435e-08, rel=1e-3) and theirs == pytest.approx(2**-24, rel=1e-3)
    found = sigmas_of(sampling, "simple", 10)
    assert times_of(sampling, found) == scheduler.timesteps.tolist()
    close(found[1:], scheduler.sigmas[1:], 2e-4)  # of the same table, rounded at other places


@pytest.mark.parametrize("steps", DIVIDING)
def test_simple_is_trailing(steps):
    sampling, theirs = discrete(), euler(steps, timestep_spacing="trailing")
    found = sigmas_of(sampling, "simple", steps)
    assert times_of(sampling, found) == theirs.timesteps.tolist()
    close(found, theirs.sigmas, TABLE)


@pytest.mark.parametrize("steps", OTHER)
def test_simple_rounds_the_other_way_by_design_where_steps_do_not_divide(steps):
    """Up where diffusers rounds to the nearest: never more than one of the model's 1000 steps."""
    sampling, theirs = discrete(), euler(steps, timestep_spacing="trailing")
    gaps = np.subtract(times_of(sampling, sigmas_of(sampling, "simple", steps)), theirs.timesteps.tolist())
    assert set(gaps) == {0, 1}


@pytest.mark.parametrize("steps", DIVIDING)
def test_ddim_uniform_is_leading(steps):
    sampling, theirs = discrete(), euler(steps, timestep_spacing="leading", steps_offset=1)
    found = sigmas_of(sampling, "ddim_uniform", steps)
    assert times_of(sampling, found) == theirs.timesteps.tolist()
    close(found, theirs.sigmas, TABLE)


@pytest.mark.parametrize("steps", OTHER)
def test_ddim_uniform_has_a_step_more_by_design_where_steps_do_not_divide(steps):
    """diffusers leaves out what the count does not reach."""
    sampling, theirs = discrete(), euler(steps, timestep_spacing="leading", steps_offset=1)
    found = times_of(sampling, sigmas_of(sampling, "ddim_uniform", steps))
    assert len(found) == steps + 1 and found[1:] == theirs.timesteps.tolist()


@pytest.mark.parametrize("steps", [4, 10, 28, 38])
def test_normal_is_linspace(steps):
    """Where its times are whole numbers."""
    sampling, theirs = discrete(), euler(steps, timestep_spacing="linspace")
    found = sigmas_of(sampling, "normal", steps)
    assert times_of(sampling, found) == theirs.timesteps.tolist()
    close(found, theirs.sigmas, TABLE)


def test_normal_takes_the_logarithms_mean_between_steps_by_design():
    """diffusers takes sigma's own: at most 5e-5 of it apart."""
    sampling, theirs = discrete(), euler(30, timestep_spacing="linspace")
    found = sigmas_of(sampling, "normal", 30)
    apart = (found[:-1] / theirs.sigmas[:-1] - 1).abs().max()
    assert 1e-6 < apart < 5e-5


@pytest.mark.parametrize("steps", [5, 30])
@pytest.mark.parametrize("name, theirs", [("karras", "use_karras_sigmas"), ("exponential", "use_exponential_sigmas")])
def test_karras_and_exponential(name, theirs, steps):
    scheduler = euler(steps, timestep_spacing="linspace", **{theirs: True})
    close(sigmas_of(discrete(), name, steps), scheduler.sigmas, TABLE)


@pytest.mark.parametrize("shift", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("steps", DIVIDING)
def test_simple_is_a_static_shift_of_falling_levels(steps, shift):
    sampling = static_flow(shift)
    theirs = flow(sigmas=falling(steps), shift=shift)
    found = sigmas_of(sampling, "simple", steps)
    close(found, theirs.sigmas)
    close(times_of(sampling, found), theirs.timesteps)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [10, 28])
def test_normal_is_diffusers_own_static_schedule(steps, shift):
    """Both shift the smallest level twice."""
    sampling, theirs = static_flow(shift), flow(steps=steps, shift=shift)
    found = sigmas_of(sampling, "normal", steps)
    close(found, theirs.sigmas, 1e-5)
    close(times_of(sampling, found), theirs.timesteps, 1e-5)


@pytest.mark.parametrize("side", [512, 1024, 1360])
@pytest.mark.parametrize("steps", DIVIDING)
def test_simple_is_the_dynamic_shift_of_flux(steps, side):
    """The host's node ModelSamplingFlux and diffusers' pipeline count the shift from the picture's tokens alike."""
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    mu = calculate_shift((side // 16) ** 2)
    model = SimpleNamespace(
        model=SimpleNamespace(model_config=SimpleNamespace(sampling_settings={})),
        objects={},
    )
    model.clone, model.add_object_patch = lambda: model, model.objects.__setitem__
    ModelSamplingFlux().patch(model, 1.15, 0.5, side, side)
    sampling = model.objects["model_sampling"]
    assert float(sampling.shift) == pytest.approx(mu, rel=1e-12)
    theirs = flow(sigmas=falling(steps), mu=mu, use_dynamic_shifting=True, shift=3.0)
    found = sigmas_of(sampling, "simple", steps)
    close(found, theirs.sigmas)
    close(times_of(sampling, found), theirs.timesteps / 1000)


def test_a_static_shift_is_the_exponent_of_the_dynamic_one():
    for mu in (0.5, 1.15):
        close(sigmas_of(flux(mu), "simple", 20), sigmas_of(static_flow(math.exp(mu)), "simple", 20))


def test_the_host_has_no_terminal_shift_by_design():
    """Qwen-Image's scheduler in diffusers stretches its levels so that the last one is 0.02; the host's leaves it."""
    settings = dict(use_dynamic_shifting=True, mu=0.9, sigmas=falling(20))
    stretched, plain = flow(**settings, shift_terminal=0.02).sigmas, flow(**settings).sigmas
    found = sigmas_of(flux(0.9), "simple", 20)
    close(found, plain)
    assert float(stretched[-2]) == pytest.approx(0.02, rel=1e-5) and float(found[-2]) > 0.1
