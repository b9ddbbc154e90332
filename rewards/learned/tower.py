"""The image tower alone: CLIP's vision model with its projection, or SigLIP's, from the files ComfyUI users have."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .checkpoints import fill, load_weights
from .clip import VISION_HEADS, chosen_activation, layers, transformers_names
from .files import Published
from .hub import transformers_class

FOLDERS = ("clip_vision", "reward_models")
CLIP_L = Published("CLIP ViT-L/14 (image tower)", ("*clip-vit-large-patch14/model.safetensors",
                                                   "*clip-vit-large-patch14.safetensors", "*clip_vision_l.safetensors"),
                   "clip-vit-large-patch14.safetensors", "model.safetensors of openai/clip-vit-large-patch14", "1.7 GB", "MIT",
                   FOLDERS)
SIGLIP_SIZES = {(729, 14): 384}  # 384 is no multiple of 14: the last pixels are dropped by the patch embedding


class Tower(nn.Module):
    """pixels [B,3,S,S] -> embedding [B,D] (projected for CLIP, pooled for SigLIP). size: S in pixels."""

    def __init__(self, network: nn.Module, size: int, output: str):
        super().__init__()
        self.network, self.size, self.output = network, size, output

    def forward(self, pixels: Tensor) -> Tensor:
        return getattr(self.network(pixel_values=pixels), self.output)


def build_clip_tower(path: Path) -> Tower:
    """From a full CLIP checkpoint or a clip_vision file, in either naming."""
    weights = {k: v for k, v in transformers_names(load_weights(path)).items() if k.startswith(("vision_model.",
                                                                                              "visual_projection."))}
    if "visual_projection.weight" not in weights or "vision_model.embeddings.class_embedding" not in weights:
        raise ValueError(f"{path.name} is not a CLIP vision model with a projection. Use the ViT-L/14 that "
                         "OpenAI published (clip-vit-large-patch14).")
    width, _, _, patch = weights["vision_model.embeddings.patch_embedding.weight"].shape
    positions = weights["vision_model.embeddings.position_embedding.weight"].shape[0] - 1
    prefix = "vision_model.encoder.layers."
    config = transformers_class("CLIPVisionConfig")(
        hidden_size=width, patch_size=patch, image_size=round(positions ** 0.5) * patch,
        num_attention_heads=VISION_HEADS.get(width, max(1, width // 64)), num_hidden_layers=layers(weights, prefix),
        intermediate_size=weights[f"{prefix}0.mlp.fc1.weight"].shape[0],
        projection_dim=weights["visual_projection.weight"].shape[0], hidden_act=chosen_activation(path, weights))
    with torch.device("meta"):
        network = transformers_class("CLIPVisionModelWithProjection")(config)
    return Tower(fill(network, weights, path.name), config.image_size, "image_embeds").train(False)


def build_siglip_tower(path: Path) -> Tower:
    """From a SigLIP checkpoint (its text tower is ignored) or a clip_vision file such as sigclip_vision_*."""
    weights = {k: v for k, v in load_weights(path).items() if k.startswith("vision_model.")
               and not k.endswith("position_ids")}
    if "vision_model.head.probe" not in weights:
        raise ValueError(f"{path.name} is not a SigLIP vision model with its pooling head (vision_model.head.*). Use "
                         "siglip-so400m-patch14-384.")
    width, _, _, patch = weights["vision_model.embeddings.patch_embedding.weight"].shape
    positions = weights["vision_model.embeddings.position_embedding.weight"].shape[0]
    prefix = "vision_model.encoder.layers."
    config = transformers_class("SiglipVisionConfig")(
        hidden_size=width, patch_size=patch, num_hidden_layers=layers(weights, prefix),
        image_size=SIGLIP_SIZES.get((positions, patch), round(positions ** 0.5) * patch),
        num_attention_heads=max(1, width // (72 if width % 72 == 0 else 64)),
        intermediate_size=weights[f"{prefix}0.mlp.fc1.weight"].shape[0])
    with torch.device("meta"):
        network = transformers_class("SiglipVisionModel")(config)
    return Tower(fill(network, as_named_by(network, weights), path.name), config.image_size, "pooler_output").train(False)


def as_named_by(network: nn.Module, weights: Mapping[str, Tensor], prefix: str = "vision_model.") -> dict[str, Tensor]:
    """transformers 5 dropped the prefix inside some vision models: the network's own names decide."""
    if any(k.startswith(prefix) for k in network.state_dict()):
        return dict(weights)
    return {k.removeprefix(prefix): v for k, v in weights.items()}
