"""Values on their way from RAM to where the network computes, without anybody waiting for the device."""

from __future__ import annotations

import comfy.model_management as management
import torch


def uploaded(value: torch.Tensor, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The value there, in this type or its own. Waiting for a copy would empty the device's queue each time; the host says on
    which devices that is not needed."""
    return value.to(device, dtype or value.dtype, non_blocking=management.device_supports_non_blocking(device))
