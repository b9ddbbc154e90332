"""One sampling step as a Gaussian: x_next ~ N(mean, std^2). A transition is a function

    (path, x, x0, sigma, sigma_next) -> Gaussian(mean, std)

x: state at sigma, x0: the network's denoised answer there, both [B, ...], float32 or float64 (half precision makes
PPO ratios drift from 1); sigma > sigma_next >= 0: [B]. Delta = sigma - sigma_next. Log-probabilities and KL are
means over all dimensions but the first, as in the official code of every paper here: true value divided by the
number of latent elements, which is why clip ranges are as small as 1e-4.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .paths import Path, expand


class Gaussian(NamedTuple):
    """mean: [B, ...]; std: [B], 0 for a deterministic step."""

    mean: Tensor
    std: Tensor


ROUNDING = 1e-5  # a sigma this near to 1 is 1

Transition = Callable[[Path, Tensor, Tensor, Tensor, Tensor], Gaussian]


def _renoise(path: Path, x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor, fraction: Tensor) -> Gaussian:
    """Keeps the total noise at sigma_next: a share std = s_next * fraction is fresh, the rest is x's own noise."""
    a, s = path.coefficients(sigma_next)
    kept = s * (1 - fraction * fraction).clamp_min(0).sqrt()
    mean = expand(a, x) * x0 + expand(kept, x) * path.noise(x, x0, sigma)
    return Gaussian(mean, s * fraction)


def ddim(eta: float) -> Transition:
    """DDIM, arXiv 2010.02502 eq. 12 and 16, written for any path: with r = a s_next / (a_next s),

        std = eta s_next sqrt(1 - r^2),   mean = a_next x0 + sqrt(s_next^2 - std^2) noise.

    eta 1 = ancestral DDPM sampling (DDPO), eta 0 = the ODE (Euler's step for flow and for eps). In the
    variance-exploding convention mean and std are the papers' divided by sqrt(alpha-bar_next), which shifts every
    log-probability by log(alpha-bar_next) / 2 and leaves ratios and gradients as they are. The official DDPO code
    stops at alpha-bar[0] and so trains its last step; a step to sigma 0 is deterministic here, hence untrainable.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"noise level (eta of ddim): {eta} is outside 0..1; 1 is DDPM's noise and usual, 0 is deterministic")

    def step(path: Path, x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Gaussian:
        a, s = path.coefficients(sigma)
        a_next, s_next = path.coefficients(sigma_next)
        r = a * s_next / (a_next * s)
        # (1 - r)(1 + r): 1 - r^2 cancels in float32 when steps are short
        return _renoise(path, x, x0, sigma, sigma_next, eta * ((1 - r) * (1 + r)).clamp_min(0).sqrt())

    return step


def deterministic() -> Transition:
    """The ODE step: std 0, no log-probability."""
    return ddim(0.0)


def flow_cps(noise_level: float) -> Transition:
    """Coefficient-preserving sampling, arXiv 2509.05952: std = sigma_next sin(noise_level pi / 2), flow path.

    The total noise stays exactly sigma_next, so images are clean at the end; a step to sigma 0 has no noise. It does
    not keep the ODE's marginals: diversity shrinks with the number of steps. Its log_prob form is "cps".
    """
    if not 0 <= noise_level <= 1:
        raise ValueError(f"noise level: {noise_level} is outside 0..1 for coefficient-preserving sampling; 0.7 to 0.8 is usual")
    fraction = math.sin(noise_level * math.pi / 2)

    def step(path: Path, x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Gaussian:
        return _renoise(path, x, x0, sigma, sigma_next, torch.full_like(sigma_next, fraction))

    return step


def _langevin(path: Path, x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor, diffusion: Tensor) -> Gaussian:
    """Euler-Maruyama step of the flow's SDE: mean x + Delta (diffusion^2 score / 2 - v), std diffusion sqrt(Delta)."""
    delta = sigma - sigma_next
    velocity = (x - x0) / expand(sigma, x)
    score = -path.noise(x, x0, sigma) / expand(sigma, x)
    mean = x + expand(delta, x) * (0.5 * expand(diffusion * diffusion, x) * score - velocity)
    return Gaussian(mean, diffusion * delta.sqrt())


def flow_sde(noise_level: float) -> Transition:
    """Flow-GRPO, arXiv 2505.05470 eq. 9: the flow's SDE with diffusion noise_level * sqrt(sigma / (1 - sigma)).

    At sigma 1 the 1 - sigma under the root is taken at sigma_next instead, as in the official code, where the formula is
    infinite; a shifted schedule may begin a rounding error below 1. noise_level 0.7 is the paper's; 0 is the Euler step.
    """
    if noise_level < 0:
        raise ValueError(f"noise_level: {noise_level} is negative")

    def step(path: Path, x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Gaussian:
        rest = 1 - torch.where(sigma > 1 - ROUNDING, sigma_next, sigma)
        return _langevin(path, x, x0, sigma, sigma_next, noise_level * (sigma / rest).sqrt())

    return step


def dance_sde(eta: float) -> Transition:
    """DanceGRPO, arXiv 2505.07818: the flow's SDE with constant diffusion eta (0.3 in the official Flux script)."""
    if eta < 0:
        raise ValueError(f"eta: {eta} is negative")

    def step(path: Path, x: Tensor, x0: Tensor, sigma: Tensor, sigma_next: Tensor) -> Gaussian:
        return _langevin(path, x, x0, sigma, sigma_next, torch.full_like(sigma, eta))

    return step


def sample(g: Gaussian, noise: Tensor) -> Tensor:
    """mean + std * noise; noise: standard normal, shaped as the mean."""
    return g.mean + expand(g.std, noise) * noise


def _refuse_zero(std: Tensor, what: str) -> None:
    if std.device.type == "cpu" and not bool((std > 0).all()):
        raise ValueError(
            f"{what} of a step without noise is not defined: std is 0 for {int((std <= 0).sum())} of {std.numel()} "
            "steps. Choose a transition with noise, e.g. ddim with eta 1, and leave out the step that ends at sigma 0"
        )


def check_noise(transition: Transition, path: Path, sigma: Tensor, sigma_next: Tensor) -> None:
    """ValueError where a step between these levels, [] or [B] on the CPU, adds no noise.

    For steps that are computed on another device: to look at the numbers there would stop it at every step.
    """
    sigma, sigma_next = sigma.reshape(-1), sigma_next.reshape(-1)
    nothing = torch.zeros(len(sigma), 1)
    _refuse_zero(transition(path, nothing, nothing, sigma, sigma_next).std, "the likelihood")


def log_prob(x_next: Tensor, g: Gaussian, form: str = "gaussian") -> Tensor:
    """[B]: log-density of x_next under g, mean over dimensions; x_next is detached, gradients reach g only.

    form "gaussian": -(x_next - mean)^2 / (2 std^2) - log std - log(2 pi) / 2.
    form "cps":      -(x_next - mean)^2, the official choice with flow_cps: neither scaled nor normalised, so ratios
                     have another scale (clip range 1e-5 instead of 1e-4).
    Raises ValueError where std is 0, on the CPU; see ``check_noise``.
    Only differences of log-probabilities at equal std carry meaning: a change of
    convention (variance preserving to exploding) shifts all of them by the same constant.
    """
    _refuse_zero(g.std, "the log-probability")
    square = (x_next.detach() - g.mean).square().flatten(1).mean(1)
    if form == "cps":
        return -square
    if form != "gaussian":
        raise ValueError(f"log_prob form: unknown {form!r}; use 'gaussian' or 'cps'")
    return -square / (2 * g.std.square()) - g.std.log() - 0.5 * math.log(2 * math.pi)


def gaussian_kl(mean: Tensor, mean_ref: Tensor, std: Tensor) -> Tensor:
    """[B]: exact KL(N(mean, std^2) || N(mean_ref, std^2)) = (mean - mean_ref)^2 / (2 std^2), mean over dimensions."""
    _refuse_zero(std, "the KL divergence")
    return (mean - mean_ref).square().flatten(1).mean(1) / (2 * std.square())


class TransitionKind(NamedTuple):
    """make: strength -> Transition; paths: names of the paths it may serve; form: its log_prob form."""

    make: Callable[[float], Transition]
    paths: tuple[str, ...]
    form: str


TRANSITIONS: dict[str, TransitionKind] = {
    "ddim": TransitionKind(ddim, ("flow", "eps", "v"), "gaussian"),
    "flow_sde": TransitionKind(flow_sde, ("flow",), "gaussian"),
    "dance_sde": TransitionKind(dance_sde, ("flow",), "gaussian"),
    "flow_cps": TransitionKind(flow_cps, ("flow",), "cps"),
    "deterministic": TransitionKind(lambda strength: deterministic(), ("flow", "eps", "v"), "gaussian"),
}


def transition_named(name: str, strength: float, path: Path) -> Transition:
    """The transition `name` at `strength` for a model of this path; ValueError where the two do not fit."""
    if name not in TRANSITIONS:
        raise ValueError(f"transition: unknown name {name!r}; use one of {', '.join(TRANSITIONS)}")
    kind = TRANSITIONS[name]
    if path.name not in kind.paths:
        fitting = [other for other, k in TRANSITIONS.items() if path.name in k.paths and other != "deterministic"]
        raise ValueError(f"transition: {name!r} is for {' and '.join(kind.paths)} models, this model is a {path.name} "
                         f"model; choose {' or '.join(fitting)}")
    return kind.make(strength)
