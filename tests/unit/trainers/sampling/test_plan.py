"""Which steps may be random: over all schedulers, shifts and step counts, a perfect network keeps the noise that is due."""

from __future__ import annotations

import comfy.model_sampling as host
import comfy.samplers
import pytest
import torch
from posttrain.trainers.noise.paths import EPS, FLOW
from posttrain.trainers.noise.transitions import TRANSITIONS, Gaussian, flow_sde, sample, transition_named
from posttrain.trainers.policy import open_policy
from posttrain.trainers.policy.levels import sigmas_of
from posttrain.trainers.sampling.plan import TOO_NOISY, noise_after, payable_steps, plan_of
from posttrain.trainers.sampling.settings import Sampling, noisy_range
from small_models import trained_policy

SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS
SHIFTS = [1.0, 1.15, 2.36, 3.0, 6.0, 12.0]


class Discrete(host.ModelSamplingDiscreteFlow, host.CONST):
    """As SD3, Lumina 2 and Qwen-Image."""


class Continuous(host.ModelSamplingFlux, host.CONST):
    """As Flux."""


class Eps(host.ModelSamplingDiscrete, host.EPS):
    """As SD1.5."""


def flow(kind, shift: float):
    class Config:
        sampling_settings = {"shift": shift, "multiplier": 1000}

    return kind(Config())


def levels(sampling, scheduler: str, steps: int) -> torch.Tensor | None:
    try:
        return sigmas_of(sampling, scheduler, steps)
    except ValueError:  # refused by name: levels that do not decrease
        return None


def measured(transition, path, sigma, sigma_next) -> float:
    """Noise in the next state, drawn in numbers, as a share of sigma_next."""
    random = torch.Generator().manual_seed(0)
    x0, noise, fresh = (torch.randn(1, 1, 200, 200, generator=random, dtype=torch.float64) for _ in range(3))
    here, there = sigma.double()[None], sigma_next.double()[None]
    taken = transition(path, path.add_noise(x0, noise, here), x0, here, there)
    kept = sample(taken, fresh) - path.coefficients(there)[0] * x0
    return float(kept.std() / there)


def test_the_noise_after_a_step_is_what_a_perfect_network_leaves():
    sigmas = sigmas_of(flow(Discrete, 3.0), "normal", 10)
    for name in ("flow_sde", "dance_sde", "flow_cps", "ddim"):
        step = transition_named(name, 0.7, FLOW)
        said = noise_after(FLOW, step, sigmas[:-1], sigmas[1:])
        for i in range(len(sigmas) - 2):
            assert float(said[i]) == pytest.approx(measured(step, FLOW, sigmas[i], sigmas[i + 1]), rel=0.03), (name, i)


@pytest.mark.parametrize("kind", [Discrete, Continuous])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_no_random_step_that_the_schedule_cannot_pay_for(scheduler, kind):
    checked = 0
    for shift in SHIFTS:
        for steps in (2, 4, 6, 10, 20, 50):
            sigmas = levels(flow(kind, shift), scheduler, steps)
            if sigmas is None:
                continue
            step = flow_sde(0.7)
            first, end = payable_steps(FLOW, step, sigmas)
            assert 0 <= first <= end < len(sigmas)
            left = noise_after(FLOW, step, sigmas[first:end], sigmas[first + 1 : end + 1])
            assert bool((left <= TOO_NOISY).all()), (scheduler, shift, steps, left.tolist())
            checked += end > first
    assert checked or scheduler == "kl_optimal"


@pytest.mark.parametrize("noise_level, steps", [(0.7, 10), (0.8, 10), (0.9, 6), (0.7, 40)])
def test_the_papers_own_settings_lose_no_step(noise_level, steps):
    for sampling in (flow(Discrete, 3.0), flow(Continuous, 1.15)):
        for scheduler in ("simple", "sgm_uniform"):
            sigmas = sigmas_of(sampling, scheduler, steps)
            assert payable_steps(FLOW, flow_sde(noise_level), sigmas) == (0, steps - 1)


@pytest.mark.parametrize("name", [name for name in TRANSITIONS if name not in ("deterministic", "flow_sde", "dance_sde")])
def test_steps_that_keep_the_total_noise_are_never_left_out(name):
    path, sampling = (EPS, Eps()) if name == "ddim" else (FLOW, flow(Discrete, 3.0))
    for scheduler in SCHEDULERS:
        sigmas = levels(sampling, scheduler, 10)
        if sigmas is not None:
            assert payable_steps(path, transition_named(name, 0.7, path), sigmas) == (0, len(sigmas) - 2)


def test_a_window_lies_among_the_payable_steps():
    normal = Sampling(steps=10, scheduler="normal")
    assert noisy_range(normal, 0) == (0, 9) and noisy_range(normal, 0, (0, 8)) == (0, 8)
    for window in ("random each iteration", "moves along"):
        moving = Sampling(steps=10, noisy_steps=3, window=window)
        assert {noisy_range(moving, i, (1, 7)) for i in range(60)} == {(a, a + 3) for a in range(1, 5)}
    with pytest.raises(ValueError, match="first noisy step: 8 leaves no step.*scheduler 'simple'"):
        noisy_range(Sampling(steps=10, first_noisy_step=8), 0, (0, 8))


def test_the_noise_after_a_step_is_what_it_keeps_and_what_it_adds():
    """0.3 of the state's noise and 0.4 sigma of new noise are 0.5 sigma; a part of the clean image is no noise."""

    def step(path, x, x0, sigma, sigma_next):
        return Gaussian(0.3 * x + 100 * x0, 0.4 * sigma)

    sigmas = torch.tensor([0.9, 0.6, 0.2], dtype=torch.float64)
    expected = 0.5 * sigmas[:-1] / sigmas[1:]
    torch.testing.assert_close(noise_after(FLOW, step, sigmas[:-1], sigmas[1:]), expected)


@pytest.mark.parametrize(
    "noise, expected",
    [
        ([1, 2, 1, 1, 2, 1], (2, 4)),
        ([1, 1, 2, 1, 2, 1, 1], (0, 2)),
        ([2, 1, 2, 1, 1], (1, 2)),
        ([1.5, 1.5, 1.5, 1.5], (0, 3)),
        ([2, 1, 1, 1], (1, 3)),
        ([2, 2, 2, 1], (0, 0)),
        ([1], (0, 0)),
    ],
)
def test_the_longest_run_of_steps_is_taken_without_the_last_step(noise, expected):
    """noise: after each step, as a share of what is due; of equally long runs the first."""

    def step(path, x, x0, sigma, sigma_next):
        return Gaussian(0 * x, torch.tensor(noise, dtype=torch.float64) * sigma_next)

    sigmas = 2.0 ** -torch.arange(len(noise) + 1)
    assert payable_steps(FLOW, step, sigmas) == expected


@pytest.mark.parametrize(
    "kind, settings, steps, noisy, left_out, transition",
    [
        ("sd3", dict(scheduler="simple"), 10, (0, 9), 0, ("flow_sde", 0.7)),
        ("sd3", dict(scheduler="karras"), 10, (0, 8), 1, ("flow_sde", 0.7)),
        ("sd3", dict(scheduler="karras", first_noisy_step=3, noisy_steps=2), 10, (3, 5), 0, ("flow_sde", 0.7)),
        ("sd3", dict(scheduler="kl_optimal", steps=4), 4, (0, 1), 2, ("flow_sde", 0.7)),
        ("sd3", dict(transition="flow_sde", noise_level=0.0), 10, (0, 0), 0, ("flow_sde", 0.0)),
        ("sd3", dict(transition="deterministic", noise_level=0.7), 10, (0, 0), 0, ("deterministic", 0.7)),
        ("sd15", dict(scheduler="ddim_uniform", steps=7), 8, (0, 7), 0, ("ddim", 1.0)),
        ("sd15", dict(window="moves along", noisy_steps=2), 10, (3, 5), 0, ("ddim", 1.0)),
    ],
)
def test_the_plan_of_a_rollout(kind, settings, steps, noisy, left_out, transition):
    with open_policy(trained_policy(kind)) as net:
        plan = plan_of(net, Sampling(**settings), 3)
        assert torch.equal(plan.sigmas, net.sigmas(settings.get("scheduler", "simple"), settings.get("steps", 10)))
        assert (plan.steps, plan.noisy, plan.left_out) == (steps, noisy, left_out)
        assert (plan.transition, plan.strength) == transition
        x, x0, levels = torch.randn(1, 2, 2), torch.randn(1, 2, 2), (plan.sigmas[2:3], plan.sigmas[3:4])
        taken, wanted = (
            plan.noisy_step(net.path, x, x0, *levels),
            transition_named(*transition, net.path)(net.path, x, x0, *levels),
        )
        assert torch.equal(taken.mean, wanted.mean) and torch.equal(taken.std, wanted.std)
        assert plan.quiet_step(net.path, x, x0, *levels).std == 0
