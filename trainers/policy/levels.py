"""Noise levels of the user's model: how it mixes data and noise, and the levels of the host's schedulers."""
from __future__ import annotations

import comfy.model_sampling
import comfy.samplers
import torch

from ..noise.paths import EPS, FLOW, Path, V, variance_preserving

# CogVideoX': the host hands the network its state as it is, and the network has learned from the papers' states
PRESERVING = getattr(comfy.model_sampling, "V_PREDICTION_DDPM", ())


def path_of(model_sampling) -> Path:
    """How the model mixes data and noise. ValueError for the few kinds that have no trainer yet.

    What the network itself answers is the host's matter: EDM's and Cosmos' networks mix as v-prediction does and stand for
    it, so that the trainers weigh their errors as those of v-prediction.
    """
    host = comfy.model_sampling
    kinds = ((host.CONST, FLOW), (host.V_PREDICTION, V), (PRESERVING, V), (getattr(host, "COSMOS_RFLOW", ()), V),
             (host.EPS, EPS))
    other = (host.X0, *(getattr(host, name) for name in ("IMG_TO_IMG_FLOW", "ModelSamplingAV") if hasattr(host, name)))
    if not isinstance(model_sampling, other):
        for kind, path in kinds:
            if isinstance(model_sampling, kind):
                return path
    raise ValueError(f"model: its sampling type ({_kind(model_sampling)}) cannot be trained yet; "
                     "use a model with noise, v or flow prediction")


class ModelLevels:
    """How a MODEL mixes and its noise levels, without its network: what a plan of steps is made of."""

    def __init__(self, model):
        self._sampling = model.get_model_object("model_sampling")
        self.path = path_of(self._sampling)

    def sigmas(self, scheduler: str, steps: int) -> torch.Tensor:
        """See ``sigmas_of``."""
        return sigmas_of(self._sampling, scheduler, steps)


def as_asked(model_sampling, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """A state of the path [B, ...] as the host's own sampler for this model asks the network about it; sigma: [B]."""
    return variance_preserving(x, sigma) if isinstance(model_sampling, PRESERVING) else x


def _kind(model_sampling) -> str:
    """The name of what mixes: the host joins it with the levels into a class of its own, whose name says nothing."""
    names = [kind.__name__ for kind in type(model_sampling).__mro__]
    return next((name for name in names if name.isupper()), names[0])


def sigmas_of(model_sampling, scheduler: str, steps: int) -> torch.Tensor:
    """Decreasing noise levels of any ComfyUI scheduler, float32 on the CPU: [steps + 1], the last one 0.

    ddim_uniform gives one level more where the steps do not divide the model's own.
    """
    sigmas = comfy.samplers.calculate_sigmas(model_sampling, scheduler, steps).float().cpu().clone()
    if len(sigmas) < 2 or bool((sigmas[1:] >= sigmas[:-1]).any()):
        raise ValueError(f"scheduler: {scheduler!r} with {steps} steps gives noise levels that do not decrease "
                         f"({[round(float(s), 4) for s in sigmas]}); choose another scheduler or more steps")
    return sigmas
