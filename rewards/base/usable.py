"""Images that a reward can be asked about."""

from __future__ import annotations

import torch
from torch import Tensor

RANGE_SLACK = 0.5  # a VAE may overshoot [0, 1] a little; 0..255 or -1..1 images are a wiring mistake


def usable_images(images: Tensor) -> tuple[Tensor, Tensor]:
    """Float RGB [B,H,W,3] in [0, 1] and a mask [B] of images that hold NaN or infinity (blackened here).

    Grey images become RGB, alpha is dropped. Keeps gradients. Raises ValueError where the input is not an image batch.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"images must be [batch, height, width, 3], got {list(images.shape)}. Connect an IMAGE, not a LATENT or MASK."
        )
    if images.shape[0] == 0 or images.shape[1] == 0 or images.shape[2] == 0:
        raise ValueError(f"images is empty ({list(images.shape)}): there is nothing to score.")
    if not images.is_floating_point():
        raise ValueError(f"images must be floats in 0..1, got {images.dtype}. Divide 8-bit images by 255.")
    images = images.float()
    images = images.expand(*images.shape[:3], 3) if images.shape[-1] == 1 else images[..., :3]
    broken = torch.stack([~torch.isfinite(image).all() for image in images])
    if broken.any():  # a copy only where something has to be changed
        images, _ = blackened(images)
    low, high = images.detach().aminmax()
    if low < -RANGE_SLACK or high > 1 + RANGE_SLACK:
        raise ValueError(
            f"images must be in 0..1, got {low.item():.3g}..{high.item():.3g}. 8-bit images must be divided by 255."
        )
    return images if low >= 0 and high <= 1 else images.clamp(0, 1), broken.cpu()


def blackened(images: Tensor) -> tuple[Tensor, Tensor]:
    """The images [B,H,W,3], those that hold NaN or infinity black, and the mask [B] of these; nobody waits for a device."""
    broken = ~torch.isfinite(images).flatten(1).all(1)
    return images.masked_fill(broken.view(-1, 1, 1, 1), 0.0), broken
