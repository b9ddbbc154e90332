"""Newer hosts bring each weight in when its layer asks ("dynamic VRAM", by the package comfy-aimdo). On the simulated card all of
the host and comfy-aimdo's own Python run as they are, over a native library of ours, aimdo.py."""

from __future__ import annotations

import contextlib
import importlib.util

from . import aimdo


def exists() -> bool:
    """Whether this host has dynamic VRAM."""
    return all(importlib.util.find_spec(name) for name in ("comfy_aimdo", "comfy.memory_management"))


def start() -> None:
    """Before anything imports the host's model management: comfy-aimdo finds its library loaded."""
    import comfy_aimdo.control

    assert comfy_aimdo.control.lib is None, "comfy-aimdo has loaded its own library"
    comfy_aimdo.control.lib = aimdo


def switch_on() -> None:
    """What the host's main.py does about it, in a process that does not run main.py."""
    import comfy.memory_management
    import comfy.model_patcher
    import comfy_aimdo.control

    assert comfy_aimdo.control.init() and comfy_aimdo.control.init_devices([0])
    comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
    comfy.memory_management.aimdo_enabled = True


@contextlib.contextmanager
def off():
    """Inside, the host makes models as without: layers have weights before a checkpoint is read into them."""
    if not exists():
        yield
        return
    import comfy.memory_management
    import comfy.model_patcher

    was = comfy.model_patcher.CoreModelPatcher, comfy.memory_management.aimdo_enabled
    comfy.model_patcher.CoreModelPatcher, comfy.memory_management.aimdo_enabled = comfy.model_patcher.ModelPatcher, False
    try:
        yield
    finally:
        comfy.model_patcher.CoreModelPatcher, comfy.memory_management.aimdo_enabled = was


@contextlib.contextmanager
def taken_back():
    """Inside, the card is so short of memory that a weight is taken back as soon as its layer says that it has done with it."""
    aimdo.short = True
    try:
        yield
    finally:
        aimdo.short = False
