"""Noise levels of the user's model: how it mixes data and noise, and the levels of the host's schedulers."""
from __future__ import annotations

import comfy.model_sampling
import comfy.samplers
import torch

from ..noise.paths import EPS, FLOW, Path, V


def path_of(model_sampling) -> Path:
    """How the model mixes data and noise. ValueError for the few kinds that have no trainer yet."""
    kinds = ((comfy.model_sampling.CONST, FLOW), (comfy.model_sampling.V_PREDICTION, V), (comfy.model_sampling.EPS, EPS))
    other = (comfy.model_sampling.EDM, comfy.model_sampling.X0)
    scale = getattr(model_sampling, "sigma_data", 1.0)
    if not isinstance(model_sampling, other) and (scale == 1.0 or isinstance(model_sampling, comfy.model_sampling.CONST)):
        for kind, path in kinds:
            if isinstance(model_sampling, kind):
                return path
    raise ValueError(f"model: its sampling type ({type(model_sampling).__mro__[:3][-1].__name__}) cannot be trained yet; "
                     "use a model with noise, v or flow prediction")


def sigmas_of(model_sampling, scheduler: str, steps: int) -> torch.Tensor:
    """Decreasing noise levels of any ComfyUI scheduler, float32 on the CPU: [steps + 1], the last one 0.

    ddim_uniform gives one level more where the steps do not divide the model's own.
    """
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, scheduler, steps).float().cpu().clone()
    if len(sigmas) < 2 or bool((sigmas[1:] >= sigmas[:-1]).any()):
        raise ValueError(f"scheduler: {scheduler!r} with {steps} steps gives noise levels that do not decrease "
                         f"({[round(float(s), 4) for s in sigmas]}); choose another scheduler or more steps")
    return sigmas
