"""Copies from RAM to the card that the host waits for, counted on a real card and on the simulated one."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Uploads(TorchDispatchMode):
    """Each of them stops the queue, as a number that is read does."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten._to_copy, torch.ops.aten.copy_):
            source = args[1] if func.overloadpacket is torch.ops.aten.copy_ else args[0]
            waits = not (kwargs or {}).get("non_blocking", len(args) > 2 and args[2])
            self.count += waits and source.device.type == "cpu" and found.device.type == "cuda"
        return found
