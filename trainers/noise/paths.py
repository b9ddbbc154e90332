"""How data and noise mix: x = a(sigma) * x0 + s(sigma) * noise, in the model's own (ComfyUI's) convention.

- flow:   a = 1 - sigma, s = sigma (sigma in [0, 1]); the network predicts the velocity noise - x0.
          Rectified flow, arXiv 2209.03003; logit-normal flow matching as in SD3, arXiv 2403.03206.
- eps, v: a = 1, s = sigma (variance exploding, sigma from 0 to about 14.6); the network predicts the noise (DDPM,
          arXiv 2006.11239) or v = alpha * noise - sigma_vp * x0 (arXiv 2202.00512), with
          alpha = 1 / sqrt(1 + sigma^2) and sigma_vp = sigma * alpha. The variance-preserving x of those papers is
          alpha * x, and their alpha-bar is alpha^2.

Shapes everywhere: x, x0, noise, prediction [B, ...]; sigma [B], above 0 wherever the formula divides by it.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def expand(sigma: Tensor, x: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1], as many dimensions as x has."""
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


def variance_preserving(x: Tensor, sigma: Tensor) -> Tensor:
    """A state of eps or v as the papers write it: alpha * x, of variance 1 where the data's is 1."""
    s = expand(sigma, x)
    return x / (1 + s * s).sqrt()


@dataclass(frozen=True)
class Path:
    """One of the constants FLOW, EPS, V below; the name is all that it is."""

    name: str

    def coefficients(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """(a, s) of x = a * x0 + s * noise, each shaped as sigma."""
        return (1 - sigma if self.name == "flow" else torch.ones_like(sigma)), sigma

    def add_noise(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """x at the noise level sigma."""
        a, s = self.coefficients(expand(sigma, x0))
        return a * x0 + s * noise

    def noise(self, x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
        """The noise that x contains if x0 is its clean part: (x - a * x0) / s."""
        a, s = self.coefficients(expand(sigma, x))
        return (x - a * x0) / s

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """What a perfect network would predict for x = add_noise(x0, noise, sigma)."""
        if self.name == "flow":
            return noise - x0
        if self.name == "eps":
            return noise
        s = expand(sigma, x0)
        return (noise - s * x0) / (1 + s * s).sqrt()

    def prediction(self, x: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
        """The network's own prediction, recovered from its denoised x0."""
        return self.target(x0, self.noise(x, x0, sigma), sigma)

    def x0(self, x: Tensor, prediction: Tensor, sigma: Tensor) -> Tensor:
        """The denoised x0 that a prediction stands for; the inverse of prediction()."""
        s = expand(sigma, x)
        if self.name == "v":
            return x / (1 + s * s) - prediction * s / (1 + s * s).sqrt()
        return x - s * prediction


FLOW, EPS, V = Path("flow"), Path("eps"), Path("v")
PATHS = {path.name: path for path in (FLOW, EPS, V)}


def noise_share(path: Path, sigma: Tensor) -> Tensor:
    """[B] in 0..1: how much of a state is noise, s / (a + s)."""
    a, s = path.coefficients(sigma)
    return s / (a + s)


def sigma_at(path: Path, share: Tensor) -> Tensor:
    """The noise level at which a state is noise to this share; the inverse of ``noise_share``."""
    return share if path.name == "flow" else share / (1 - share)
