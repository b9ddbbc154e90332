"""The models of develop.py gpu are those that people train: the host recognises them by their weights' shapes."""

from __future__ import annotations

import comfy.model_detection as detection
import comfy.supported_models as supported
import pytest
import torch
from posttrain.benchmarks.gpu.models import REAL, SD35, SDXL

PARAMETERS = {SDXL: 2_567_463_684, SD35: 2_243_171_520}  # of the published networks
HOSTS = {SDXL: supported.SDXL, SD35: supported.SD3}


@pytest.mark.parametrize("size", REAL, ids=lambda size: size.name)
def test_the_real_size_is_the_published_one(size):
    meta, kind = torch.device("meta"), HOSTS[size.name]
    config = kind(dict(size.network))
    config.unet_config["dtype"] = torch.bfloat16
    config.set_inference_dtype(torch.bfloat16, None)
    with meta:
        network = config.get_model({}, device=meta).diffusion_model
    assert sum(weight.numel() for weight in network.parameters()) == PARAMETERS[size.name]
    assert type(detection.model_config_from_unet(network.state_dict(), "")) is kind
    assert size.pixels == 1024 and size.channels == kind.latent_format.latent_channels
