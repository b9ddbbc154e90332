"""The network's frozen weights shared out among the processes of a training: each has a part of every block on its card, and a
block is whole while it computes (FSDP2, torch.distributed.fsdp.fully_shard). The bank is whole on each.

Every process then computes the same, since all have to ask for a block at the same time: it makes room, it makes nothing faster.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import comfy.model_management as management
import torch
from torch.utils._pytree import tree_map

from ...rewards.base import ranks
from .overwritten import refilled
from .room import Room
from .weights import is_plain, stand_in_for, tensors_of

_groups: list[torch.distributed.ProcessGroup] = []  # this process', made once


@contextlib.contextmanager
def shared_out(network: torch.nn.Module, blocks: Iterable[torch.nn.Module], device: torch.device) -> Iterator[None]:
    """Inside, where the processes share weights: the network's are shared out, block by block; afterwards every module is as it
    was. ValueError, before anything is changed, on weights that cannot be. device: where the network computes.
    """
    if not ranks.shares_weights() or _is_shared(network):  # a policy may be open already
        yield
        return
    check_shareable(network)
    from torch.distributed._composable_state import _module_state_mapping
    from torch.distributed.fsdp import fully_shard

    mesh, was = _mesh(device), [(module, type(module), _copied(vars(module))) for module in network.modules()]
    try:
        _stand_in(network)
        for module in (*blocks, network):
            module.register_forward_hook(_own_outputs)  # before FSDP's, which marks what comes out
            fully_shard(module, mesh=mesh)
            module.register_forward_pre_hook(_own_inputs, with_kwargs=True)  # behind FSDP's
        yield
    finally:
        refilled.clear()
        for module, kind, attributes in was:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(attributes)
            _module_state_mapping.pop(module, None)  # PyTorch has no word for the way back


def in_ram(room: Room) -> float:
    """The share of the weights that the host leaves in RAM: all where only a part comes to the card, which is FSDP's to bring."""
    return 1.0 if ranks.shares_weights() else room.in_ram


def cancelled_on_all() -> None:
    """Where weights are shared, a cancel of one process is one of all, at the same evaluation: none waits for weights."""
    if ranks.shares_weights() and any(ranks.met("the network", management.processing_interrupted())):
        management.interrupt_current_processing()


def _is_shared(network: torch.nn.Module) -> bool:
    return type(network).__name__.startswith("FSDP")


def check_shareable(network: torch.nn.Module) -> None:
    """ValueError on weights that are no plain tensors of two bytes or more, or not the module's own."""
    for name, module in network.named_modules():
        if hasattr(module, "_v"):
            raise ValueError(
                "--share-weights: this ComfyUI brings each weight to the card by itself (dynamic VRAM), so there is nothing to "
                "share out; start it with --disable-dynamic-vram"
            )
        for own, weight in module._parameters.items():
            if weight is not None and (what := _why_not(weight)):
                raise ValueError(
                    f"--share-weights: the model's {name}.{own} is {what}, and such weights cannot be shared out; take the model "
                    "in 16 bit, or leave the option out"
                )


def _why_not(weight: torch.Tensor) -> str:
    """What a weight is that processes cannot send each other by parts; "" where they can."""
    if not is_plain(weight):
        return f"packed ({type(weight).__name__})"
    return str(weight.dtype).removeprefix("torch.") if weight.dtype.itemsize == 1 else ""


def _stand_in(network: torch.nn.Module) -> None:
    """Puts aliases in the place of all weights: what moves to a card is theirs, and the user's stay where the host has them."""
    known: dict[int, torch.Tensor] = {}
    for table, name, tensor in tensors_of(network):
        if is_plain(tensor):
            table[name] = known.setdefault(id(tensor), stand_in_for(tensor))


def _mesh(device: torch.device):
    """All processes, over a group of its own: what is exchanged here must not meet what the processes tell each other."""
    if not _groups:
        _groups.append(torch.distributed.new_group())
    return torch.distributed.device_mesh.DeviceMesh.from_group(_groups[0], device.type)


def _copied(attributes: dict) -> dict:
    """Of a module: its hooks, parameters and the like are dictionaries that are changed in place."""
    return {name: value.copy() if isinstance(value, dict) else value for name, value in attributes.items()}


def _own_inputs(module: torch.nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """What comes in passes a function that notes when the backward is through, whose answers may not be overwritten; blocks that
    add to their input (Flux, HunyuanVideo, LTX) get a copy."""
    refilled.update(weight.untyped_storage()._cdata for weight in module.parameters() if is_plain(weight))  # whole now
    return tuple(map(_own, args)), {name: _own(value) for name, value in kwargs.items()}


def _own_outputs(module: torch.nn.Module, args: tuple, out):
    """A view loses FSDP's mark, and with it its weights in the backward, where somebody adds to it."""
    return tree_map(lambda value: _own(value) if isinstance(value, torch.Tensor) and value._is_view() else value, out)


def _own(value):
    return value.clone() if isinstance(value, torch.Tensor) and value.requires_grad else value
