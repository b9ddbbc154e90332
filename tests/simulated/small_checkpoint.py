"""One small file with a network and a VAE, which the host's Load Checkpoint takes for what a user has."""

from __future__ import annotations

from pathlib import Path

import small_models
import torch
from comfy.taesd.taesd import TAESD
from safetensors.torch import save_file
from simulated_card import dynamic


def write_checkpoint(path: Path, text: int = 32) -> Path:
    """SD3 with random weights, float32, and the tiny autoencoder for its latents. text: width of a token."""
    config = small_models.BUILD["sd3"]()
    config.unet_config["context_embedder_config"]["params"]["in_features"] = text
    with dynamic.off():
        network = config.get_model({}, device=torch.device("cpu")).diffusion_model
        vae = TAESD(latent_channels=16)
    small_models.random_weights(network, 0)
    small_models.random_weights(vae, 17)
    positions = torch.randn(1, 256, network.x_embedder.proj.bias.shape[0], generator=torch.Generator().manual_seed(1)) * 0.1
    weights = {f"model.diffusion_model.{k}": v for k, v in (network.state_dict() | {"pos_embed": positions}).items()}
    weights |= {f"first_stage_model.{k}": v for k, v in vae.state_dict().items()}
    save_file({k: v.contiguous() for k, v in weights.items()}, path)
    return path
