"""Loads the network and what must be in memory beside it, through ComfyUI's memory manager, so that what can be loaded in part
is what has to give way."""
from __future__ import annotations

from collections.abc import Sequence

import comfy.model_management as management

from ...rewards.learned.holder import load_models


def load_together(patcher, others: Sequence, in_ram: float = 0.0) -> None:
    """The network's ModelPatcher, in part where it must be, and the others (a VAE, a reward's networks) whole.

    The host loads a list in no particular order, so where not all fits, chance would decide which of them is cut.
    in_ram: the share of the network's weights that stays in RAM at least.
    RuntimeError, in words, where the others alone are too large for the device.
    """
    if in_ram and can_stream(patcher):
        _load_in_part(patcher, others, in_ram)
        return
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


def can_stream(patcher) -> bool:
    """Whether the host can keep a part of this model in RAM, and has not decided by itself what lies where."""
    states = (management.VRAMState.NORMAL_VRAM, management.VRAMState.LOW_VRAM)
    on_a_card = not management.is_device_cpu(patcher.load_device)
    return on_a_card and management.vram_state in states and not getattr(patcher, "is_dynamic", bool)()


def _load_in_part(patcher, others: Sequence, in_ram: float) -> None:
    device = patcher.load_device
    management.free_memory(1e30, device)
    # the host fills with weights what is free above this, and wants as much to be free when the others come
    beside = sum(other.model_size() for other in others if other.load_device == device) * 1.1
    wanted = patcher.model_size() * (1 - in_ram)
    kept_free = max(management.get_free_memory(device) - wanted, beside + management.minimum_inference_memory())
    load_models([patcher], memory_required=kept_free)
    if others:
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
