"""Noise levels: every scheduler of the host, and the host's own sampler as the judge of the rollout's steps."""
from __future__ import annotations

import comfy.sample
import comfy.samplers
import pytest
import torch
from posttrain.trainers.policy.levels import sigmas_of
from posttrain.trainers.sampling.draws import chosen_samples
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import SIZE, PlainVAE, conditioning, prompts_for, trained_policy

SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS
FEW = dict(width=64, height=64, prompts_per_iteration=1, images_per_prompt=2, batch_size=2)


@pytest.mark.parametrize("kind", ["sd15", "sd2_v", "sd3", "flux", "lumina"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_falls_to_zero(kind, scheduler):
    sampling = trained_policy(kind).model.get_model_object("model_sampling")
    for steps in (2, 6, 10, 30):
        sigmas = sigmas_of(sampling, scheduler, steps)
        assert sigmas[-1] == 0 and bool((sigmas[1:] < sigmas[:-1]).all())
        assert len(sigmas) == steps + 1 or scheduler == "ddim_uniform"


@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_without_noise_it_is_the_hosts_euler_sampler(kind, scheduler):
    """Six steps: of ddim_uniform, the host makes seven."""
    policy, sampling = trained_policy(kind), Sampling(steps=6, scheduler=scheduler, transition="deterministic", **FEW)
    ours = rollout(policy, prompts_for(kind), PlainVAE(), sampling, 0, weights="reference")
    samples = chosen_samples(2, sampling, 0)
    noise = samples.noise(slice(None)).start(SIZE[kind])
    positive = conditioning(kind, 1 + int(samples.index[0]))
    theirs = comfy.sample.sample(policy.model, noise, 6, 1.0, "euler", scheduler, positive, positive,
                                 torch.zeros_like(noise), seed=0, disable_pbar=True)
    torch.testing.assert_close(ours.latents, policy.model.model.process_latent_in(theirs), rtol=1e-3, atol=1e-3)


def test_random_steps_of_a_longer_schedule_leave_no_noise():
    policy = trained_policy("sd3")
    made = rollout(policy, prompts_for("sd3"), PlainVAE(), Sampling(steps=6, scheduler="ddim_uniform", **FEW), 0)
    assert len(made.sigmas) == 8 and made.sigmas[-1] == 0
    assert made.trajectory.steps == 6 and made.evaluations == 2 * 7, "all steps but the last are random"


def test_levels_that_do_not_decrease_are_refused_in_words():
    sampling = trained_policy("sd15").model.get_model_object("model_sampling")
    with pytest.raises(ValueError, match="'simple' with 1500 steps .* do not decrease .* choose another scheduler"):
        sigmas_of(sampling, "simple", 1500)
