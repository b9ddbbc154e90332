"""Everything about a MODEL, VAE or CLIP's network that a user could notice if it changed, down to types and bytes."""
from __future__ import annotations

import torch


def fingerprint(module: torch.nn.Module) -> dict:
    found = {}
    for name, part in module.named_modules():
        found[name, "own"] = sorted(k for k in part.__dict__ if not k.startswith("_"))
        for key, tensor in [*part._parameters.items(), *part._buffers.items()]:
            found[name, key] = None if tensor is None else _of(tensor)
    return found


def _of(tensor: torch.Tensor) -> tuple:
    kind = (type(tensor), tensor.dtype, tuple(tensor.shape), tensor.device, tensor.is_inference(), tensor.requires_grad)
    if hasattr(tensor, "__tensor_flatten__"):
        names, context = tensor.__tensor_flatten__()
        return *kind, str(context), *(_of(getattr(tensor, name)) for name in names)
    plain = tensor.detach().as_subclass(torch.Tensor)
    return *kind, plain.untyped_storage().data_ptr(), bytes(plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
