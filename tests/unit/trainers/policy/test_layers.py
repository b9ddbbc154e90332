"""Which layers a bank is laid over."""

from __future__ import annotations

import torch
from posttrain.trainers.policy import Recipe, create_policy
from small_models import small_model


def test_layers_at_the_latent_are_left_out_of_the_convolutions():
    policy = create_policy(small_model("sd15"), Recipe(rank=16, targets="all linear layers and convolutions"))
    assert not any(key.startswith(("input_blocks.0.0", "out.2")) for key in policy.bank)
    assert any("in_layers.2" in key for key in policy.bank)


def test_a_linear_layer_with_a_few_features_is_left_out():
    """Nothing there is low-rank, and a rank above them would refuse the whole model."""
    model = small_model("sd3")
    model.model.diffusion_model.narrow, model.model.diffusion_model.wide = torch.nn.Linear(3, 64), torch.nn.Linear(8, 64)
    bank = create_policy(model, Recipe(rank=8, targets="all linear layers")).bank
    assert "wide.lora_A" in bank and "narrow.lora_A" not in bank
