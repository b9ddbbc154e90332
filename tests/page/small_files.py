"""Small files in the layouts that a user downloads: a checkpoint, and the network of the goal "look better"."""

from __future__ import annotations

from pathlib import Path

import torch
from posttrain.tests.unit.rewards.networks import tiny_open_clip
from safetensors.torch import save_file

TOKEN, POOLED = 4096, 2048  # widths of SD3's encodings, whichever of its text encoders there are


def write_pickscore(base: Path) -> Path:
    """Into the models of this base directory."""
    return saved({key: value.contiguous() for key, value in tiny_open_clip().state_dict().items()},
                 base / "models" / "reward_models" / "PickScore_v1.safetensors")  # fmt: skip


def write_checkpoint(path: Path) -> Path:
    """SD3 with random weights in half precision: the smallest network, the tiny autoencoder, and CLIP-L, whose size is fixed."""
    import comfy.sd1_clip
    from comfy.taesd.taesd import TAESD
    from posttrain.tests.unit.trainers.policy import small_models

    config = small_models.BUILD["sd3"]()
    config.unet_config["context_embedder_config"]["params"]["in_features"] = TOKEN
    config.unet_config["adm_in_channels"] = POOLED
    network = config.get_model({}, device=torch.device("cpu")).diffusion_model
    vae, text = TAESD(latent_channels=16), comfy.sd1_clip.SDClipModel(device="cpu", dtype=torch.float16).transformer
    for seed, part in enumerate((network, vae, text)):
        small_models.random_weights(part, seed)
    positions = torch.randn(1, 256, network.x_embedder.proj.bias.shape[0], generator=torch.Generator().manual_seed(1)) * 0.1
    parts = {
        "model.diffusion_model": network.state_dict() | {"pos_embed": positions},
        "first_stage_model": vae.state_dict(),
        "text_encoders.clip_l.transformer": text.state_dict(),
    }
    return saved(
        {f"{prefix}.{name}": value.half().contiguous() for prefix, part in parts.items() for name, value in part.items()}, path
    )


def saved(weights: dict[str, torch.Tensor], path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)
    return path
