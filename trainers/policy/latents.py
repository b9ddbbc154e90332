"""Between pixels and the network's own latents, with the user's VAE."""
from __future__ import annotations

import torch

from .weights import outside_inference


def latent_shape(model, vae, width: int, height: int) -> tuple[int, ...]:
    """[C, H, W] of a latent for this size in pixels ([C, 1, H, W] for models whose latents have a time axis)."""
    ratio = vae.spacial_compression_decode()
    form = model.model.latent_format
    if width < ratio or height < ratio:
        raise ValueError(f"width, height: {width} x {height} is smaller than one latent pixel ({ratio} x {ratio}); "
                         "choose a larger size")
    time = (1,) if getattr(form, "latent_dimensions", 2) == 3 else ()
    return (form.latent_channels, *time, height // ratio, width // ratio)


def to_images(model, vae, latents: torch.Tensor) -> torch.Tensor:
    """Model-space latents [B, C, H, W] -> images [B, H, W, 3] in [0, 1], on the CPU; the host tiles if it must."""
    with torch.inference_mode():
        images = vae.decode(model.model.process_latent_out(latents))
    images = outside_inference(images).float().cpu().clamp(0, 1)
    return images.reshape(-1, *images.shape[-3:])[..., :3]


def to_latent_socket(model, latents: torch.Tensor) -> dict:
    """ComfyUI's LATENT of model-space latents."""
    return {"samples": model.model.process_latent_out(latents)}


def from_latent_socket(model, latent: dict) -> torch.Tensor:
    """Model-space latents [B, C, H, W], float32 on the CPU, of a LATENT from any sampler. ValueError on a mismatch."""
    samples = outside_inference(latent["samples"]).float().cpu()
    channels = model.model.latent_format.latent_channels
    if samples.shape[1] != channels:
        raise ValueError(f"latent: it has {samples.shape[1]} channels, but the policy's model has {channels}; "
                         "use latents sampled with the same model")
    return model.model.process_latent_in(samples)
