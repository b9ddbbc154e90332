"""Makes frozen weights usable by autograd without copying them.

ComfyUI runs nodes under ``torch.inference_mode``; tensors made there are refused by autograd. A tensor that shares
their storage but was made outside is accepted, costs no memory and stays valid until the weights are moved again.
"""
from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import torch


def freeze_for_autograd(module: torch.nn.Module) -> None:
    """Switches ``requires_grad`` off everywhere and replaces inference tensors by aliases of the same storage."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is None:
                continue
            if parameter.is_inference():
                part._parameters[name] = torch.nn.Parameter(_alias(parameter), requires_grad=False)
            elif parameter.requires_grad:
                parameter.requires_grad_(False)
        for name, buffer in part._buffers.items():
            if buffer is not None and buffer.is_inference():
                part._buffers[name] = _alias(buffer)


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode(False):
        view = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        return view.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


def outside_inference(value):
    """The same value with tensors that autograd accepts; what was made in inference mode is copied.

    Looks into lists, tuples, dicts and dataclasses; call it outside of inference mode.
    """
    if isinstance(value, torch.Tensor):
        return value.detach().clone() if value.is_inference() else value.detach()
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: outside_inference(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, (list, tuple)):
        return type(value)(outside_inference(v) for v in value)
    if isinstance(value, dict):
        return {k: outside_inference(v) for k, v in value.items()}
    return value
