"""Which models make single pictures, told by what the host says of them. All others are named before anything is touched."""

from __future__ import annotations

import torch

REMEDY = "use a model that makes images, or a video model with a single frame"
# networks whose latents do not say so themselves, by the name that the host gives them
OTHERS = {
    "ltxav": "it makes a video together with its sound",
    "minimax_h3": "it makes a video together with its sound",
    "triposplat": "it makes 3D shapes out of a picture",
    "seedvr2": "it makes a given video sharper and reads no prompt",
    "animate2": "its first frame is the picture that it sets in motion, so it has no single frame of its own",
}


def check_makes_pictures(model) -> None:
    """ValueError where the MODEL makes something that no reward here can look at; says what and what to do."""
    config = getattr(getattr(model.model, "model_config", None), "unet_config", {})
    other = OTHERS.get(config.get("image_model")) or OTHERS.get(config.get("model_type"))
    if other:
        raise ValueError(f"model: {other}, and rewards here look at pictures that were made for a prompt; {REMEDY}")
    if config.get("audio_model"):
        raise ValueError(f"model: it makes sound, and rewards here look at pictures; {REMEDY}")
    if getattr(model.model.latent_format, "latent_dimensions", 2) == 1:
        raise ValueError(
            "model: its latents are a single line, as those of sound and of 3D shapes, and rewards here look at "
            f"pictures; {REMEDY}"
        )
    if config.get("use_temporal_attention"):
        raise ValueError(
            f"model: it takes the images of a batch for the frames of one video, so they cannot be scored one by one; {REMEDY}"
        )


def check_decodes_pictures(vae) -> None:
    """ValueError where the VAE decodes to something else."""
    channels = getattr(vae, "output_channels", 3)
    if channels < 3:
        raise ValueError(
            f"vae: it decodes to {channels} channels, as VAEs of sound do, and pictures have 3; connect the VAE "
            "that belongs to an image model"
        )


def check_one_frame(latents: torch.Tensor, source: str = "latent") -> None:
    """ValueError where latents [B, C, T, H, W] hold more than one frame; those without a time axis have one."""
    if latents.ndim == 5 and latents.shape[2] != 1:
        raise ValueError(
            f"{source}: it holds videos of {latents.shape[2]} latent frames, and rewards here look at single "
            "pictures; set the length to 1 where the latents are made"
        )
