"""Annealed guidance: DRaFT+'s official numbers, and through the host's own sampler, step by step."""

from __future__ import annotations

import comfy.sample
import pytest
import torch
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.losses.draft import draft_loss
from posttrain.trainers.losses.error import squared_error
from posttrain.trainers.noise.paths import EPS
from posttrain.trainers.noise.transitions import deterministic
from posttrain.trainers.policy import open_policy
from posttrain.trainers.policy.annealed import COURSES, annealed, time_ranges, tuned_shares
from posttrain.trainers.policy.levels import sigmas_of
from small_models import SIZE, conditioning, prompts_for, trained_policy

NAMES = {"even": "linear", "squared": "power_2", "to the fourth": "power_4", "switched at 0.6": "step_0p6"}
STEPS = 5


@pytest.mark.parametrize("course", COURSES)
def test_golden_shares(golden, close, course):
    """But for the last one, whose mixture the official code throws away."""
    file, total = golden("16"), int(golden("16").const("anneal_total"))
    ours = torch.tensor(tuned_shares(course, total), dtype=torch.float64)
    close(ours[:-1], file[f"anneal.out.weight_{NAMES[course]}"].double()[:-1], 1e-6)
    assert len(ours) == total and ours[-1] == 1


@pytest.mark.parametrize("case", ["linear", "draft"])
def test_golden_mixed_predictions(golden, close, case):
    file = golden("16").view("mixed.")
    now, after = file["in.alphas_cumprod_at"], file["in.alphas_cumprod_prev"]
    total = int(file["const.mixed_total"])
    assert file["in.timesteps"].tolist() == sorted(file["in.timesteps"].tolist(), reverse=True) and len(now) == total
    assert (file["in.prev_timesteps"] < file["in.timesteps"]).all()
    shares = tuned_shares("even", total) if case == "linear" else [1.0] * total
    x = file["in.x_start"]
    for i in range(total):
        close(x, file[f"{case}.out.states"][i])
        init, tuned = (file[f"in.{each}_weight"] * x + file[f"in.{each}_bias"][i] for each in ("init", "tuned"))
        share = i / total if case == "linear" else 1.0
        mixed = (1 - share) * init + share * tuned
        close(mixed, file[f"{case}.out.eps"][i])
        last = (1 - shares[i]) * init + shares[i] * tuned
        sigma, sigma_next = (((1 - each) / each).sqrt().expand(len(x)) for each in (now[i], after[i]))
        state = x / now[i].sqrt()
        x0 = EPS.x0(state, last if i == total - 1 else mixed, sigma)
        if i == total - 1:
            close(x0, file[f"{case}.out.image_latent"])
        x = deterministic()(EPS, state, x0, sigma, sigma_next).mean * after[i].sqrt()


def test_golden_loss(golden, close):
    file = golden("16").view("loss.")
    eps, rewards = (file[f"in.{each}"].clone().requires_grad_() for each in ("tuned_eps", "rewards"))
    drift = torch.stack([squared_error(now, then) for now, then in zip(eps, file["in.init_eps"])])
    close(drift.mean(1), file["out.kl_of_step"])
    close(drift.mean(), file["out.kl_penalty"])
    loss = draft_loss(rewards, drift.mean(0), file.const("kl_coeff")).loss
    close(loss, file["out.loss"])
    assert file.const("truncation_steps") == DRaFT().steps
    loss.backward()
    close(rewards.grad, file["grad.rewards"])
    close(eps.grad, file["grad.tuned_eps"])


@pytest.mark.parametrize("kind", ["sd15", "sd3"])
@pytest.mark.parametrize("scheduler", ["simple", "karras"])
def test_each_noise_level_lies_in_its_own_part_of_the_sampling(kind, scheduler):
    sampling = trained_policy(kind).model.get_model_object("model_sampling")
    sigmas = sigmas_of(sampling, scheduler, 12)[:-1].tolist()
    ends = [
        [float(sampling.percent_to_sigma(percent)) for percent in each]
        for each in time_ranges(sampling.percent_to_sigma, sigmas)
    ]
    inside = [[place for place, (high, low) in enumerate(ends) if low <= sigma <= high] for sigma in sigmas]
    assert inside == [[place] for place in range(12)], "both ends belong to a range, as the host reads it"


@pytest.mark.parametrize("kind, course", [("sd15", "even"), ("sd3", "even"), ("sd3", "switched at 0.6")])
def test_the_hosts_sampler_mixes_the_predictions(kind, course):
    """Euler's steps by hand, each with both models' clean estimates, beside the host's KSampler on the user's own model."""
    policy, prompts = trained_policy(kind), prompts_for(kind)
    noise = torch.randn(2, *SIZE[kind], generator=torch.Generator().manual_seed(3))
    positive = annealed(policy, conditioning(kind, 1), STEPS, "simple", course)
    found = comfy.sample.sample(
        policy.model,
        noise,
        STEPS,
        1.0,
        "euler",
        "simple",
        positive,
        positive,
        torch.zeros_like(noise),
        seed=0,
        disable_pbar=True,
    )
    shares = tuned_shares(course, STEPS)
    with torch.no_grad(), open_policy(policy) as net:
        sigmas, bank = net.sigmas("simple", STEPS), net.to_device(policy.bank)
        x, alone = (net.start(noise, float(sigmas[0])) for _ in range(2))
        for i in range(STEPS):
            base, tuned = (net.denoise(x, sigmas[i].expand(2), prompts, [0, 0], 1.0, weights) for weights in (None, bank))
            x = x + (sigmas[i + 1] - sigmas[i]) * (x - (1 - shares[i]) * base - shares[i] * tuned) / sigmas[i]
            only = net.denoise(alone, sigmas[i].expand(2), prompts, [0, 0], 1.0, bank)
            alone = alone + (sigmas[i + 1] - sigmas[i]) * (alone - only) / sigmas[i]
    theirs = policy.model.model.process_latent_in(found)
    torch.testing.assert_close(theirs, x, rtol=1e-3, atol=1e-3)
    assert (theirs - alone).abs().max() > 0.05, "the tuned model alone ends elsewhere"


def test_a_conditioning_with_a_time_of_its_own_is_refused():
    policy = trained_policy("sd3")
    timed = [[torch.zeros(1, 1, 1), {"start_percent": 0.2}]]
    with pytest.raises(ValueError, match="^negative: it holds for a part of the sampling already"):
        annealed(policy, timed, STEPS, "simple", "even", "negative")
