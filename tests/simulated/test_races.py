"""Offload streams upload weights while the main stream computes: none may get memory that a kernel still reads."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import world
from simulated_card import device
from world import RAW, TRAINERS, World, placed

NAMES = ("DDPO", "NFT", "DiffusionDPO", "DRaFT")


@pytest.mark.sweep
@pytest.mark.parametrize("kind, dtype", [("sd15", "fp32"), ("sd3", "fp8"), ("flux", "fp32")])
@pytest.mark.parametrize("low", [False, True], ids=["", "low"])
@pytest.mark.parametrize("name", NAMES)
def test_no_stream_gets_memory_that_another_still_reads(kind, dtype, low, name):
    import comfy.model_management as management
    assert management.NUM_STREAMS == 2, "the host's own choice on an NVIDIA card"
    trainer, there = next(t for t in TRAINERS if t.__name__ == name), World(kind, dtype)
    with placed(there, "streamed", reserve=int(there.vae_size * 1.1) if name == "DRaFT" else 0):
        torch.cuda.synchronize()
        device.reset()
        world.step(there, trainer, replace(RAW, low_memory=low))
        assert device.counts()["to_device"] > 0
        count, words = device.races()
    assert count == 0, words[:3]
