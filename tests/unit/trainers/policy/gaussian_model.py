"""A MODEL whose data is Gaussian, so that its denoiser and its consistency function are known exactly.

The network is ComfyUI's BaseModel around the exact denoiser plus one trainable number for each noise level of a grid,
which is just enough for an exact student.
"""
from __future__ import annotations

import comfy.model_base
import comfy.model_patcher
import comfy.supported_models as supported
import torch
from posttrain.trainers.noise.paths import PATHS, expand

CPU = torch.device("cpu")
MEAN, VARIANCE = 0.3, 0.16
CLASSES = {"flow": supported.SD3, "eps": supported.SD15, "v": supported.SD20}
KINDS = {"flow": comfy.model_base.ModelType.FLOW, "eps": comfy.model_base.ModelType.EPS,
         "v": comfy.model_base.ModelType.V_PREDICTION}


class Denoiser(torch.nn.Module):
    """x0 = exact x0 + gain(sigma) * (x - a mean); ``sigma_of`` undoes the model sampling's timestep."""

    def __init__(self, path, sigma_of, grid: torch.Tensor):
        super().__init__()
        self.path, self.sigma_of, self.grid = path, sigma_of, grid
        self.gain = torch.nn.Linear(len(grid), 1, bias=False)
        torch.nn.init.zeros_(self.gain.weight)

    def forward(self, x, timesteps, context=None, **_):
        sigma = self.sigma_of(timesteps)
        if self.path.name != "flow":
            x = x * expand((1 + sigma**2).sqrt(), x)
        nearest = (self.grid[None] - sigma[:, None]).abs().argmin(1)
        gain = self.gain(torch.nn.functional.one_hot(nearest, len(self.grid)).to(x))[:, 0]
        a, s = self.path.coefficients(sigma)
        share = VARIANCE * a / (a**2 * VARIANCE + s**2) + gain / (1 + s)
        x0 = MEAN + expand(share, x) * (x - expand(a, x) * MEAN)
        return self.path.prediction(x, x0, sigma)


def gaussian_model(kind: str, grid_of):
    """A ModelPatcher of the path ``kind``; grid_of(model_sampling) -> [N] noise levels."""
    config = CLASSES[kind]({"disable_unet_model_creation": True, "dtype": torch.float32})
    config.latent_format = supported.SD15.latent_format()
    model = comfy.model_base.BaseModel(config, model_type=KINDS[kind], device=CPU)
    sampling = model.model_sampling
    # a flow's sampling shifts on the way to sigma only
    sigma_of = (lambda t: t / sampling.multiplier) if kind == "flow" else sampling.sigma
    model.diffusion_model = Denoiser(PATHS[kind], sigma_of, grid_of(sampling))
    model.diffusion_model.dtype = torch.float32
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def consistency_gain(path, sigma: torch.Tensor) -> torch.Tensor:
    """f(x, sigma) = mean + gain (x - a mean): the exact end of the probability flow."""
    a, s = path.coefficients(sigma)
    return (VARIANCE / (a**2 * VARIANCE + s**2)).sqrt()


def teacher_gain(path, sigma: torch.Tensor) -> torch.Tensor:
    """[N + 1] noise levels, the last 0 -> [N]: the end that N steps of the sampler reach from each."""
    a, s = path.coefficients(sigma[:-1].double())
    a_next, s_next = path.coefficients(sigma[1:].double())
    x0 = VARIANCE * a / (a**2 * VARIANCE + s**2)
    factors = a_next * x0 + s_next * (1 - a * x0) / s
    return factors.flip(0).cumprod(0).flip(0)
