"""Names of diffusers' layers for models of which the host has no table of them, by diffusers' own converters of checkpoints.

Row numbers go through a converter in the place of weights: what comes out says which rows of which layer a name stands for.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection
from functools import partial

import torch

from .layers import layer_shapes
from .lora_names import flat_name

WEIGHT = ".weight"


def is_installed() -> bool:
    try:
        import diffusers  # noqa: F401
    except ImportError:
        return False
    return True


def names_of_diffusers(network: torch.nn.Module, wanted: Collection[str]) -> dict[str, object]:
    """``wanted``: diffusers' names of layers, by ``flat_name``. Those of them that a converter gives -> the host's targets: a
    weight's key, or (key, (0, first row, rows)), or (key, None, change) where rows are in another order. {} without diffusers."""
    if not is_installed():
        return {}
    try:
        from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES as known
    except ImportError:  # it is no public name
        return {}
    functions = dict.fromkeys(each.get("checkpoint_mapping_fn") for each in known.values() if isinstance(each, dict))
    found = (_by(function, network) for function in functions if function is not None)
    return max(({name: each[name] for name in wanted if name in each} for each in found), key=len, default={})


def _by(convert: Callable, network: torch.nn.Module) -> dict[str, object]:
    """Every layer's name by this converter; {} where it is for another network."""
    layers = {name: b[0] for name, (_, b) in layer_shapes(network).items()}
    names, starts, end = list(layers), [], 0
    for rows in layers.values():
        starts.append(end)
        end += rows
    numbers = {f"{name}{WEIGHT}": torch.arange(start, start + layers[name])[:, None] for name, start in zip(names, starts)}
    others = {key: value for key, value in network.state_dict().items() if key not in numbers}
    try:
        converted = convert({**others, **numbers})
    except Exception:  # of another network, it may fail in any way
        return {}
    found: dict[str, object] = {}
    for name, rows in converted.items():
        of_rows = isinstance(rows, torch.Tensor) and rows.dtype == torch.int64 and rows.ndim == 2
        if of_rows and name.endswith(WEIGHT) and len(rows):
            at = bisect.bisect_right(starts, int(rows.min())) - 1
            if int(rows.max()) < starts[at] + layers[names[at]]:
                target = _target(names[at], rows[:, 0] - starts[at], layers[names[at]])
                found |= {} if target is None else {flat_name(name.removesuffix(WEIGHT)): target}
    return found


def _target(layer: str, rows: torch.Tensor, outputs: int) -> object:
    key, first = f"diffusion_model.{layer}{WEIGHT}", int(rows.min())
    if torch.equal(rows, torch.arange(outputs)):
        return key
    if torch.equal(rows, torch.arange(first, first + len(rows))):
        return key, (0, first, len(rows))
    if len(rows) == outputs and torch.equal(rows.sort().values, torch.arange(outputs)):
        return key, None, partial(_in_order, order=rows.argsort())
    return None


def _in_order(value: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return value[order.to(value.device)]
