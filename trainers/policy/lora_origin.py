"""For which model a LoRA was made, told by what its file says or, without a word, by the names of its layers."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from ...rewards.base.words import shown

# where programs write it: kohya and those that follow it, the common standard, this pack
SAID = ("modelspec.architecture", "ss_base_model_version", "posttrain.base_model")
# layers that only one architecture has, by any program's name for them; the first that is found counts
LAYERS = {
    r"img_mlp|txt_mod\.1|txt_mod_1": "Qwen-Image",
    r"noise_refiner|context_refiner": "Lumina 2 or Z-Image",
    r"double_stream_blocks|caption_projection": "HiDream",
    r"distilled_guidance_layer": "Chroma",
    r"double_blocks|single_blocks|single_transformer_blocks": "Flux or a relative of it",
    r"joint_transformer_blocks|double_layers": "AuraFlow",
    r"joint_blocks|transformer_blocks[._]\d+[._]attn[._]add_q": "SD3",
    r"blocks[._]\d+[._](cross_attn|self_attn)": "Wan",
}
UNETS = {768: "SD1.5", 1024: "SD2", 2048: "SDXL", 1280: "the refiner of SDXL"}  # by the width of a text's tokens


def made_for(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """In words, for messages."""
    said = next((metadata[key] for key in SAID if metadata.get(key)), "")
    if said:
        return f"{shown(said)} (so its file says)"
    for pattern, name in LAYERS.items():
        if any(re.search(pattern, key) for key in tensors):
            return f"{name} (told by its layers' names)"
    for key, value in tensors.items():
        if re.search(r"attn2[._](processor[._])?to_k", key) and re.search(r"down|lora_A", key) and value.ndim > 1:
            return f"{UNETS.get(value.shape[1], f'a UNet with texts of width {value.shape[1]}')} (told by its cross-attention)"
    first = next(iter(tensors), "")
    return f"another architecture (its first layer is called {shown(first)})"
