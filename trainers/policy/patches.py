"""What nodes have put on a MODEL that a policy cannot honour: named before anything is touched."""
from __future__ import annotations

from comfy.patcher_extension import WrappersMP

from .levels import path_of
from .pictures import check_makes_pictures

# wrappers around a single call of the network or of its guidance, which the policy runs as the host does
RUN = {WrappersMP.PREDICT_NOISE, WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL}
REFUSED_OPTIONS = {"context_handler": "context windows"}
REMEDY = "connect the model from before that node"


def check_model(model) -> None:
    """ValueError where the MODEL carries what cannot be trained through; says what and what to do."""
    check_makes_pictures(model)
    path_of(model.get_model_object("model_sampling"))
    _check_forgets(model)
    _check_noise(model)
    for key, what in REFUSED_OPTIONS.items():
        if model.model_options.get(key):
            raise ValueError(f"model: it carries {what} ({key}), which cannot be trained through; {REMEDY}")
    for kind, name in _wrappers(model):
        if kind in _host_kinds() - RUN:
            raise ValueError(f"model: a node{name} wraps the whole sampling ({kind}), as caches over its steps do; a train "
                             f"step asks for single noise levels, so it cannot be trained through; {REMEDY}")
    if model.get_additional_models_with_key("multigpu"):
        raise ValueError(f"model: it is spread over several GPUs, where no gradient is computed; {REMEDY}")


def _check_forgets(model) -> None:
    network = getattr(model.model, "diffusion_model", None)
    if callable(getattr(network, "clear_kv_cache", None)):
        raise ValueError("model: its network keeps keys and values of the prompt from one step for the next, which in a training "
                         "would be those of older weights; use a model without such a memory")


def _check_noise(model) -> None:
    scale = float(getattr(model.get_model_object("model_sampling"), "noise_scale", 1.0))
    if scale != 1.0:
        raise ValueError(f"model: its noise is scaled by {scale:g}, as Model Noise Scale does, and trainers draw noise of scale "
                         "1, so they would train on states that no sampler makes; use a model from before that node")


def _host_kinds() -> set[str]:
    return {value for name, value in vars(WrappersMP).items() if name.isupper()}


def _wrappers(model) -> list[tuple[str, str]]:
    """(kind, " 'key'" or "") of every wrapper on the MODEL, wherever the host looks for it."""
    of_options = model.model_options.get("transformer_options", {}).get("wrappers", {})
    return [(kind, f" ({key!r})" if key else "") for wrappers in (model.wrappers, of_options)
            for kind, by_key in wrappers.items() for key, functions in by_key.items() if functions]
