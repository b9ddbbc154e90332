"""LoRA files of diffusers and peft as the host's loader takes them: names that it knows, the strength that they keep elsewhere.

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

from ...rewards.base.words import shown

# what the host's loader looks for behind a layer's name, of a pair of matrices
ENDING = re.compile(r"\.(lora_[AB](\.default)?\.weight|lora\.(down|up)\.weight|lora_(down|up)\.weight|alpha)$")
DOWN = ("lora_A.weight", "lora_A.default.weight", "lora.down.weight", "lora_down.weight")
SETTINGS = "lora_adapter_metadata"
PEFT = "base_model.model."
A_NAME = re.compile(r"\^?([\w.-]|\\\.)+\$?")  # of alpha_pattern
FLAT = re.compile(r"^(lora_unet_|lora_transformer_|lycoris_)(?=.)")
PREFIXES = ("transformer.", "unet.", "diffusion_model.", PEFT, "")


def as_the_host_reads(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], known: Collection[str]
) -> dict[str, torch.Tensor]:
    """The same LoRA with alphas beside its matrices, and layers under names of ``known`` (``comfy.lora.model_lora_keys_unet``)
    where they had others for the same layers. What is not understood stays as it is. ValueError: a strength is given by a
    regular expression, which is not run."""
    flat = {} if all(layer in known for layer in _layers(tensors)) else {flat_name(name): name for name in known}
    names = {layer: _known_name(layer, known, flat) for layer in _layers(tensors)}
    if len(set(names.values())) < len(names):  # two layers would become one
        names = {}
    found = {}
    for key, value in {**_alphas(tensors, metadata), **tensors}.items():
        layer = ENDING.sub("", key)
        found[names.get(layer, layer) + key[len(layer) :]] = value
    return found


def with_peft_settings(metadata: Mapping[str, str], config: Mapping) -> dict[str, str]:
    """config: of peft's adapter_config.json, as if the file's metadata said it of the layers that peft named."""
    settings = {f"{PEFT}{key}": value for key, value in config.items()}
    return {**metadata, SETTINGS: json.dumps({**_settings(metadata), **settings})}


def bare_name(layer: str) -> str:
    """Without the word for the network in its pipeline, or peft's."""
    return layer.removeprefix(next(prefix for prefix in PREFIXES if layer.startswith(prefix)))


def flat_name(layer: str) -> str:
    """The same without its dots, as kohya writes it."""
    return FLAT.sub("", bare_name(layer)).replace(".", "_")


def _layers(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Layers that hold a pair of matrices: their rank."""
    downs = ((key, value) for key, value in tensors.items() if key.endswith(DOWN) and value.ndim > 1)
    return {ENDING.sub("", key): value.shape[0] for key, value in downs}


def _known_name(layer: str, known: Collection[str], flat: Mapping[str, str]) -> str:
    bare = bare_name(layer)
    older = bare.replace(".to_", ".processor.to_").removesuffix(".0")  # when attention was in processors
    candidates = [layer, *(start + name for name in (bare, older) for start in PREFIXES)]
    found = next((name for name in candidates if name in known), layer)
    return flat.get(flat_name(layer), layer) if found not in known and FLAT.match(layer) else found


def _alphas(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """ "<layer>.alpha" as the host counts it, scale times rank, of layers whose strength stands in the metadata."""
    settings = _settings(metadata)
    found = {}
    for layer, rank in _layers(tensors).items():
        component = PEFT if layer.startswith(PEFT) else f"{layer.partition('.')[0]}."
        alpha = _of_layer(settings, component, layer.removeprefix(component))
        if f"{layer}.alpha" not in tensors and alpha is not None:
            root = settings.get(f"{component}use_rslora") is True
            found[f"{layer}.alpha"] = torch.tensor(float(alpha) * (math.sqrt(rank) if root else 1.0))
    return found


def _settings(metadata: Mapping[str, str]) -> dict:
    """ "<component>.<setting of peft's LoraConfig>", {} where the file has none that can be read."""
    try:
        settings = json.loads(metadata.get(SETTINGS, "{}"))
    except ValueError:
        return {}
    return settings if isinstance(settings, dict) else {}


def _of_layer(settings: dict, component: str, name: str) -> float | None:
    """peft's patterns are names of layers, or the ends of them; the first that fits counts."""
    each = settings.get(f"{component}alpha_pattern")
    for pattern, value in each.items() if isinstance(each, dict) else ():
        if not A_NAME.fullmatch(str(pattern)):
            raise ValueError(
                f"its settings give alpha by the regular expression {shown(pattern)}, and none is run that comes with a file; "
                "load it with peft and save it with a name for each layer"
            )
        end = str(pattern).removeprefix("^").removesuffix("$").replace("\\.", ".")
        if name == end or not str(pattern).startswith("^") and name.endswith(f".{end}"):
            return _number(value)
    return _number(settings.get(f"{component}lora_alpha"))


def _number(value: object) -> float | None:
    """A strength that can be one, else None."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) else None
