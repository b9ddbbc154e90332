"""Noise levels: every scheduler of the host."""

from __future__ import annotations

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import pytest
import torch
from posttrain.trainers.noise.paths import expand
from posttrain.trainers.policy.levels import as_asked, path_of, sigmas_of
from small_models import trained_policy

SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS


@pytest.mark.parametrize("kind", ["sd15", "sd2_v", "sd3", "flux", "lumina"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_falls_to_zero(kind, scheduler):
    sampling = trained_policy(kind).model.get_model_object("model_sampling")
    for steps in (2, 6, 10, 30):
        sigmas = sigmas_of(sampling, scheduler, steps)
        assert sigmas[-1] == 0 and bool((sigmas[1:] < sigmas[:-1]).all())
        assert len(sigmas) == steps + 1 or scheduler == "ddim_uniform"


def test_levels_that_do_not_decrease_are_refused_in_words():
    sampling = trained_policy("sd15").model.get_model_object("model_sampling")
    with pytest.raises(ValueError, match="'simple' with 1500 steps .* do not decrease .* choose another scheduler"):
        sigmas_of(sampling, "simple", 1500)


@pytest.mark.parametrize(
    "kind", [name for name in ("EPS", "V_PREDICTION", "V_PREDICTION_DDPM", "CONST") if hasattr(comfy.model_sampling, name)]
)
def test_the_state_and_the_answer_are_the_hosts(kind):
    """What the network is asked, and what its answer stands for, by the host's own two functions around it."""
    host = comfy.model_sampling
    sampling = type("ModelSampling", (host.ModelSamplingDiscrete, getattr(host, kind)), {})()
    path, sigma = path_of(sampling), torch.tensor([0.9, 0.2], dtype=torch.float64)
    x0, noise, answer = torch.randn(3, 2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = path.add_noise(x0, noise, sigma)
    asked = as_asked(sampling, x, sigma)
    torch.testing.assert_close(path.x0(x, answer, sigma), sampling.calculate_denoised(sigma, answer, asked))
    if kind.startswith("V_"):
        alpha = 1 / (1 + expand(sigma, x) ** 2).sqrt()
        preserving = alpha * x0 + (1 - alpha**2).sqrt() * noise
        torch.testing.assert_close(sampling.calculate_input(sigma, asked), preserving)
