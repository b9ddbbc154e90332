"""Between pixels and the network's own latents, with the user's VAE."""
from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ...rewards.base.half import through_half
from ...rewards.learned.holder import in_words, load_models
from .attention import vae_attention
from .checkpoint import checkpointed
from .frozen import frozen_layers
from .pictures import check_decodes_pictures, check_one_frame
from .scratch import mapped
from .weights import freeze_for_autograd, outside_inference

CPU_PIXELS = 2**16  # decoded at once on a CPU: of 64 pixels 16 images, of 128 four, larger ones one by one (docs/bench.md)
LARGE = 2**29  # bytes of images that may stay in RAM
PART = 8  # images of more that are decoded at once


def latent_shape(model, vae, width: int, height: int) -> tuple[int, ...]:
    """[C, H, W] of a latent for this size in pixels ([C, 1, H, W] for models whose latents have a time axis)."""
    check_decodes_pictures(vae)
    ratio = vae.spacial_compression_decode()
    form = model.model.latent_format
    if width < ratio or height < ratio:
        raise ValueError(f"width, height: {width} x {height} is smaller than one latent pixel ({ratio} x {ratio}); "
                         "choose a larger size")
    time = (1,) if getattr(form, "latent_dimensions", 2) == 3 else ()
    return (form.latent_channels, *time, height // ratio, width // ratio)


def to_images(model, vae, latents: torch.Tensor) -> torch.Tensor:
    """Model-space latents [B, C, H, W] or [B, C, 1, H, W] -> images [B, H, W, 3] in [0, 1], float32 on the CPU; the host tiles
    if it must. Where they are LARGE they are decoded a PART at a time and lie in a file that is mapped into memory."""
    check_decodes_pictures(vae)
    check_one_frame(latents)
    if image_bytes(vae, latents.shape) <= LARGE:
        return _decoded(model, vae, latents)
    return mapped((_decoded(model, vae, part) for part in latents.split(PART)), image_bytes(vae, latents.shape), "images")


def image_bytes(vae, shape: tuple[int, ...]) -> int:
    """Bytes of the images of latents of this shape [B, C, (1,) H, W], as 32-bit numbers."""
    return 3 * 4 * shape[0] * shape[-1] * shape[-2] * vae.spacial_compression_decode() ** 2


def _decoded(model, vae, latents: torch.Tensor) -> torch.Tensor:
    with in_words(), torch.inference_mode(), _of_this_model(latents):
        if hasattr(vae, "patcher"):  # the host would go on, in tiles, with a VAE that it could load only in part
            load_models([vae.patcher], memory_required=vae.memory_used_decode(latents.shape, vae.vae_dtype))
        parts = _for_decoder(vae, model.model.process_latent_out(latents)).split(_at_once(vae, latents))
        images = torch.cat([vae.decode(part) for part in parts])
    return _one_each(outside_inference(images).float().cpu().clamp(0, 1))


def to_images_with_gradient(model, vae, latents: torch.Tensor, *, recompute: bool = False) -> torch.Tensor:
    """The same as ``to_images``, differentiable, on the VAE's device and never in tiles.

    The VAE must be loaded (open_policy's also_load). Pixels beyond white or black are cut, but keep the gradient of a loss
    that draws them back: a saturated picture can still find its way. recompute: each image on its own, its activations
    made again in the backward pass; for large VAEs.
    """
    check_decodes_pictures(vae)
    check_one_frame(latents)
    decoder = vae.first_stage_model
    freeze_for_autograd(decoder)
    latents = _for_decoder(vae, _outside_inference(model.model.latent_format).process_out(latents.to(vae.device)))

    def decode(_, part):
        with frozen_layers(decoder), vae_attention(decoder):
            return through_half(decoder.decode, part, vae.vae_dtype)

    with _of_this_model(latents):
        if recompute:
            pixels = torch.cat([checkpointed(decode, decoder, [], part) for part in latents.split(1)])
        else:
            pixels = decode(None, latents)
    # the host's process_output maps [-1, 1] (or [0, 1]) to [0, 1] and cuts, without a gradient, what lies outside
    images = _InwardClamp.apply(vae.process_output(_InwardClamp.apply(pixels, -1.0)), 0.0).movedim(1, -1)
    return _one_each(images)


def _at_once(vae, latents: torch.Tensor) -> int:
    """How many images are decoded in one call: all, and the host cuts them as its memory wants; on a CPU as many as stay near
    its caches, which takes half the time."""
    device = getattr(getattr(vae, "patcher", None), "load_device", None)
    if device is None or device.type != "cpu":
        return len(latents)
    pixels = latents.shape[-1] * latents.shape[-2] * vae.spacial_compression_decode() ** 2
    return max(1, CPU_PIXELS // pixels)


def _for_decoder(vae, latents: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] of [B, C, 1, H, W] where the VAE knows no time, which newer hosts do themselves."""
    return latents[:, :, 0] if latents.ndim == 5 and getattr(vae, "latent_dim", 3) == 2 else latents


def _one_each(images: torch.Tensor) -> torch.Tensor:
    """[B, H, W, 3] of what a VAE of images or of videos decodes: [B, H, W, C] or [B, T, H, W, C]."""
    if images.ndim == 5 and images.shape[1] != 1:
        raise ValueError(f"vae: it makes {images.shape[1]} frames of one latent frame, and a reward looks at one picture; "
                         "connect the VAE that belongs to the model")
    return images.reshape(-1, *images.shape[-3:])[..., :3]


@contextmanager
def _of_this_model(latents: torch.Tensor) -> Iterator[None]:
    """A VAE of another model fails inside its first layer: the message says what to do about it."""
    try:
        yield
    except RuntimeError as error:
        if "channels" not in str(error):
            raise
        raise ValueError(f"vae: it cannot decode the latents of this model, which have {latents.shape[1]} channels; connect "
                         "the VAE that belongs to the model") from error


def _outside_inference(latent_format):
    """A latent format whose means and deviations autograd accepts."""
    plain = copy.copy(latent_format)
    vars(plain).update({k: outside_inference(v) for k, v in vars(plain).items() if isinstance(v, torch.Tensor)})
    return plain


class _InwardClamp(torch.autograd.Function):
    """Cuts to [low, 1]. A value that was cut receives only gradient that draws it back inward.

    Passing all of it, a reward of bright pictures pushes pixels that are white already further out, which nobody sees but
    the latents; passing none, a pixel that is out by chance could never come back.
    """

    @staticmethod
    def forward(ctx, x, low):
        ctx.save_for_backward(x)
        ctx.low = low
        return x.clamp(low, 1.0)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        # descent moves against the gradient: above 1 a gradient above 0 draws back, below low one below 0
        outward = ((x > 1.0) & (gradient < 0)) | ((x < ctx.low) & (gradient > 0))
        return gradient.masked_fill(outward, 0.0), None


def to_latent_socket(model, latents: torch.Tensor) -> dict:
    """ComfyUI's LATENT of model-space latents."""
    return {"samples": model.model.process_latent_out(latents)}


def from_latent_socket(model, latent: dict, source: str = "latent", remedy: str = "use latents sampled with the same model"
                       ) -> torch.Tensor:
    """Model-space latents [B, C, H, W], float32 on the CPU, of a LATENT from any sampler. ValueError on a mismatch.

    source, remedy: the input that they came from, and what to do about it, for the message."""
    samples = outside_inference(latent["samples"]).float().cpu()
    channels = _channels_of_socket(model)
    if samples.ndim not in (4, 5):
        raise ValueError(f"{source}: its shape {tuple(samples.shape)} is not that of latent images, [batch, channels, height, "
                         "width]; connect a sampler's or VAE Encode's output")
    if samples.shape[1] != channels:
        raise ValueError(f"{source}: its latents have {samples.shape[1]} channels, but the policy's model has {channels}; "
                         f"{remedy}")
    check_one_frame(samples, source)
    with_time = getattr(model.model.latent_format, "latent_dimensions", 2) == 3
    if with_time != (samples.ndim == 5):  # as the host does it with an empty latent
        samples = samples.unsqueeze(2) if with_time else samples[:, :, 0]
    return model.model.process_latent_in(samples)


def _channels_of_socket(model) -> int:
    """Of a LATENT for this model, which few formats fold into more channels on the way in."""
    form = model.model.latent_format
    time = (1,) if getattr(form, "latent_dimensions", 2) == 3 else ()
    return model.model.process_latent_out(torch.zeros(1, form.latent_channels, *time, 2, 2)).shape[1]
