"""For which model a LoRA was made, told by what its file says or, without a word, by the names of its layers."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from ...rewards.base.words import shown
from .layers import layer_shapes

# where programs write it: kohya and those that follow it, the common standard, this pack
SAID = ("modelspec.architecture", "ss_base_model_version", "posttrain.base_model")
# layers that only these architectures have, by any program's name for them; the first that is found counts
LAYERS = {
    r"noise_refiner|context_refiner": ("Lumina 2", "Z-Image"),
    r"(double|single)_stream_blocks": ("HiDream",),
    r"distilled_guidance_layer": ("Chroma",),
    r"joint_transformer_blocks|double_layers": ("AuraFlow",),
    r"double_blocks|single_blocks|single_transformer_blocks": ("Flux", "Flux.2", "Chroma", "another relative of it"),
    r"img_mlp|txt_mod[._]1": ("Qwen-Image",),
    r"joint_blocks": ("SD3",),
    r"transformer_blocks[._]\d+[._]attn[._](add|to)_": ("SD3", "Qwen-Image"),
    r"cross_attn[._](q|kv)_linear": ("PixArt",),
    r"(?<!transformer_)blocks[._]\d+[._](self_attn|cross_attn|attn[12])": ("Wan",),
}
ROOT = re.compile(r"^((transformer|unet|model|base_model|diffusion_model)\.|lora_(unet|transformer)_|lycoris_)*")
PIXART = re.compile(r"transformer_blocks[._]\d+[._]attn[12]")  # at the root; in UNets they lie deeper
UNETS = {768: "SD1.5", 1024: "SD2", 2048: "SDXL", 1280: "the refiner of SDXL"}  # by the width of a text's tokens


def made_for(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """In words, for messages."""
    said = next((metadata[key] for key in SAID if metadata.get(key)), "")
    if said:
        return f"{shown(said)} (so its file says)"
    names, how = _told(tensors)
    if names:
        return f"{' or '.join(names)} (told by its {how})"
    first = next(iter(tensors), "")
    return f"another architecture (its first layer is called {shown(first)})"


def may_be_for(tensors: Mapping[str, torch.Tensor], network: torch.nn.Module) -> bool:
    """Whether the names of a LoRA's layers are of an architecture that the network may be, too."""
    own = {f"{name}.lora_down.weight": torch.empty(a, device="meta") for name, (a, _) in layer_shapes(network).items()}
    return not set(_told(tensors)[0]).isdisjoint(_told(own)[0])


def _told(tensors: Mapping[str, torch.Tensor]) -> tuple[tuple[str, ...], str]:
    """The architectures that it may be, () for none that is known, and by what that is told."""
    for pattern, names in LAYERS.items():
        if any(re.search(pattern, key) for key in tensors):
            return names, "layers' names"
    if any(PIXART.match(ROOT.sub("", key)) for key in tensors):
        return ("PixArt", "a relative of it"), "layers' names"
    for key, value in tensors.items():
        if re.search(r"attn2[._](processor[._])?to_k", key) and re.search(r"down|lora_A", key) and value.ndim > 1:
            return (UNETS.get(value.shape[1], f"a UNet with texts of width {value.shape[1]}"),), "cross-attention"
    return (), ""
