"""A ComfyUI that takes the simulated card for a real one, in this process; nothing of the host is edited.

The host asks torch.cuda, which answers.py answers, so its own memory manager runs as on a GPU: loading, partial loading
("lowvram"), unloading, OOM_EXCEPTION. It keeps 1.2 GB free for inference, more than any small model has: ``memory`` scales
that down with the card.
"""
from __future__ import annotations

import contextlib
import gc

from . import device, dynamic

RESERVE = 2 << 20  # what stands for the host's 1.2 GB; two MiB are much to a small model


def start(*flags: str, mac: bool = False, streams: bool = False) -> None:
    """The host as ``comfy`` on the simulated card; COMFYUI_DIR must be importable. flags: of ComfyUI's command line, such as
    "--novram"; mac: Apple's GPU; streams: with the host's dynamic VRAM, on a host that has it."""
    device.start(mac)
    if streams:
        dynamic.start()
    import comfy.options
    comfy.options.enable_args_parsing(False)
    import comfy.cli_args
    on = {flag.removeprefix("--").replace("-", "_"): True for flag in flags}
    assert vars(comfy.cli_args.args).keys() >= on.keys(), f"this host does not know all of {flags}"
    vars(comfy.cli_args.args).update(on | {"cpu": False})
    import comfy.model_management as management
    expected = "mps" if mac else "cuda"
    assert management.get_torch_device().type == expected, f"the host computes on {management.get_torch_device()}"
    management.minimum_inference_memory = lambda: RESERVE
    management.extra_reserved_memory = lambda: RESERVE // 4
    if streams:
        dynamic.switch_on()


@contextlib.contextmanager
def memory(weights: int | None = None, limit: int | None = None):
    """A card on which about ``weights`` bytes of a model find room (less than its size: partial loading), and which
    refuses allocations above ``limit`` bytes in use. Every model is unloaded before and after."""
    unload_all()
    with contextlib.ExitStack() as stack:
        if limit is not None:
            stack.enter_context(device.limit(limit))
        if weights is not None:
            stack.enter_context(device.reported(device.counts()["now"] + weights + RESERVE))
        try:
            yield
        finally:
            unload_all()


def unload_all() -> None:
    """And what newer hosts let go at the end of a workflow: the buffers that they have streamed weights through."""
    import comfy.model_management as management
    management.unload_all_models()
    getattr(management, "reset_cast_buffers", lambda: None)()
    gc.collect()


def on_card(patcher):
    """The same ModelPatcher, computing on the card and kept in RAM otherwise, as the host's own loaders make it."""
    import comfy.model_management as management
    patcher.load_device, patcher.offload_device = management.get_torch_device(), management.unet_offload_device()
    return patcher


def vae_on_card(vae):
    """The same VAE, computing on the card."""
    import comfy.model_management as management
    vae.device, vae.output_device = management.vae_device(), management.intermediate_device()
    vae.patcher.load_device, vae.patcher.offload_device = vae.device, management.vae_offload_device()
    return vae


def strays(value, where: str = "value") -> list[str]:
    """Where tensors inside this value (dataclasses, dicts, lists) lie on the card: what leaves a node must hold none."""
    if hasattr(value, "untyped_storage"):
        return [] if value.device.type == "cpu" else [f"{where}: {tuple(value.shape)} on {value.device}"]
    if isinstance(value, dict):
        inside = [(item, f"{where}[{key!r}]") for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        inside = [(item, f"{where}[{number}]") for number, item in enumerate(value)]
    else:
        inside = [(getattr(value, name), f"{where}.{name}") for name in getattr(value, "__dataclass_fields__", ())]
    return [found for item, place in inside for found in strays(item, place)]
