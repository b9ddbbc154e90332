"""The LoRA of Train LoRA, in whichever order a version of ComfyUI hands it out."""

from __future__ import annotations

import pytest
import torch
from posttrain.nodes.model.trained_lora import OUTPUTS, PTTrainedLora

LORA = {"diffusion_model.a.lora_up.weight": torch.zeros(2, 1), "diffusion_model.a.lora_down.weight": torch.zeros(1, 2)}
LOSSES, MODEL = {"loss": [0.5, 0.25]}, object()


@pytest.mark.parametrize("first, second", [(MODEL, LORA), (LORA, LOSSES)])
def test_either_order(first, second):
    assert PTTrainedLora().run(first, second) == (LORA,)


@pytest.mark.parametrize(
    "first, second, words", [(MODEL, LOSSES, "neither"), (LORA, dict(LORA), "each"), ({}, MODEL, "neither")]
)
def test_none_or_two_is_said(first, second, words):
    with pytest.raises(ValueError, match=f"^first, second: {words} of the two is a LoRA; connect"):
        PTTrainedLora().run(first, second)


def test_what_the_host_hands_out_fits_the_sockets():
    from comfy_extras.nodes_train import TrainLoraNode

    kinds = [output.io_type for output in TrainLoraNode.define_schema().outputs][:2]
    assert set(kinds) <= set(OUTPUTS.split(",")) and "LORA_MODEL" in kinds
