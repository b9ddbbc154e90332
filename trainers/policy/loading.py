"""Loads the network and what must be in memory beside it, through ComfyUI's memory manager, so that what can be loaded in part
is what has to give way."""
from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management as management

from ...rewards.learned.holder import load_models


def load_together(patcher, others: Sequence) -> None:
    """The network's ModelPatcher, in part where it must be, and the others (a VAE, a reward's networks) whole.

    The host loads a list in no particular order, so where not all fits, chance would decide which of them is cut.
    RuntimeError, in words, where the others alone are too large for the device.
    """
    load_models([patcher, *others])
    cut = [other for other in others if not _is_whole(other)]
    if not cut or management.vram_state not in (management.VRAMState.NORMAL_VRAM, management.VRAMState.LOW_VRAM):
        return  # the other states say themselves what lies where
    device = patcher.load_device
    management.free_memory(1e30, device)
    needed = sum(other.model_size() for other in others if other.load_device == device)
    # as much as the host will want to be free when the others come
    load_models([patcher], memory_required=needed * 1.1 + management.minimum_inference_memory())
    load_models(others, force_full_load=True)
    if not is_loaded(patcher):
        raise RuntimeError(too_large(patcher, others, "the VAE and the reward"))


def is_loaded(patcher) -> bool:
    return any(loaded.model is patcher for loaded in management.current_loaded_models)


def too_large(patcher, others: Sequence, what: str) -> str:
    """What to say where ``what`` does not fit beside the network: by how much, and the remedies."""
    device = patcher.load_device
    held = sum(loaded.model.loaded_size() for loaded in management.current_loaded_models if loaded.device == device)
    whole = [other.model_size() for other in others if other.load_device == device]
    room = management.get_free_memory(device) + held - management.minimum_inference_memory()
    return ("The model, the VAE and the reward do not fit into memory together, which a trainer through the reward needs: "
            f"{what} must be whole in memory, {_mb(sum(whole))} MB, and there is room for {_mb(max(0, room))} MB. Lower the "
            "batch size or the image size, switch on low memory, or use a smaller reward model")


def _is_whole(patcher) -> bool:
    """Or need not be: with dynamic VRAM the host brings each weight in when its layer asks, in a backward pass too."""
    return getattr(patcher, "is_dynamic", bool)() or patcher.loaded_size() >= patcher.model_size()


def _mb(size: float) -> int:
    return -int(-size // 2**20)
