"""Noise levels: every scheduler of the host."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import pytest
from posttrain.trainers.policy.levels import sigmas_of
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
