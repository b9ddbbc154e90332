"""LoRA files of diffusers and peft as the host's loader takes them: names that it knows, and the strength that they keep elsewhere.

The host reads the tensors of a file and nothing else. diffusers writes a LoRA's alpha into the file's metadata
alone, so that the host takes it to be the rank; UNets' attention layers have other names than in the host's table, and peft's
files begin with base_model.model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping

import torch

# what the host's loader looks for behind a layer's name, of a pair of matrices
ENDING = re.compile(r"\.(lora_[AB]\.weight|lora\.(down|up)\.weight|lora_(down|up)\.weight|alpha)$")
DOWN = ("lora_A.weight", "lora.down.weight", "lora_down.weight")
SETTINGS = "lora_adapter_metadata"
PREFIXES = ("transformer.", "unet.", "diffusion_model.", "base_model.model.", "")


def as_the_host_reads(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], known: Collection[str]
) -> dict[str, torch.Tensor]:
    """The same LoRA with alphas beside its matrices, and layers under names of ``known`` (``comfy.lora.model_lora_keys_unet``)
    where they had others for the same layers. What is not understood stays as it is."""
    names = {layer: _known_name(layer, known) for layer in _layers(tensors)}
    found = {}
    for key, value in {**_alphas(tensors, metadata), **tensors}.items():
        layer = ENDING.sub("", key)
        found[names.get(layer, layer) + key[len(layer) :]] = value
    return found


def _layers(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Layers that hold a pair of matrices: their rank."""
    downs = ((key, value) for key, value in tensors.items() if key.endswith(DOWN) and value.ndim > 1)
    return {ENDING.sub("", key): value.shape[0] for key, value in downs}


def _known_name(layer: str, known: Collection[str]) -> str:
    prefix = next(prefix for prefix in PREFIXES if layer.startswith(prefix))
    bare = layer.removeprefix(prefix)
    older = bare.replace(".to_", ".processor.to_").removesuffix(".0")  # when attention was in processors
    candidates = [layer, *(start + name for name in (bare, older) for start in PREFIXES)]
    return next((name for name in candidates if name in known), layer)


def _alphas(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """ "<layer>.alpha" as the host counts it, scale times rank, of layers whose strength stands in the metadata."""
    settings = _settings(metadata)
    found = {}
    for layer, rank in _layers(tensors).items():
        component, _, name = layer.partition(".")
        alpha = _of_layer(settings, component, "alpha_pattern", "lora_alpha", name)
        if f"{layer}.alpha" not in tensors and alpha is not None:
            root = settings.get(f"{component}.use_rslora") is True
            found[f"{layer}.alpha"] = torch.tensor(float(alpha) * (math.sqrt(rank) if root else 1.0))
    return found


def _settings(metadata: Mapping[str, str]) -> dict:
    """ "<component>.<setting of peft's LoraConfig>", {} where the file has none that can be read."""
    try:
        settings = json.loads(metadata.get(SETTINGS, "{}"))
    except ValueError:
        return {}
    return settings if isinstance(settings, dict) else {}


def _of_layer(settings: dict, component: str, pattern: str, general: str, name: str) -> float | None:
    """peft's patterns are names of layers, or the ends of them; as regular expressions they are not run."""
    each = settings.get(f"{component}.{pattern}")
    for end, value in each.items() if isinstance(each, dict) else ():
        end = str(end).removeprefix("^").replace("\\.", ".")
        if name == end or name.endswith(f".{end}"):
            return _number(value)
    return _number(settings.get(f"{component}.{general}"))


def _number(value: object) -> float | None:
    """A strength that can be one, else None."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None
