"""A policy's LoRA in the names of other tools, read back by those tools: ComfyUI, diffusers' loaders and converters."""

from __future__ import annotations

import comfy.sd
import pytest
import torch
from posttrain.tests.unit.trainers.policy.diffusers_twins import TWINS, our_answer, their_answer
from posttrain.trainers.policy import Recipe, create_policy, lora_state_dict, policy_as_model
from posttrain.trainers.policy.interchange import COMFYUI, DIFFUSERS, KOHYA, PEFT, lora_as, names_of
from small_models import small_model, trained_policy

LAYERS = "all linear layers and convolutions"
# diffusers' converter of kohya's names has the sizes of the real Flux in it where a layer is of parts of unlike sizes
OF_ANY_SIZE = {("flux", KOHYA): r"double_blocks|linear2"}


def twins(kind: str, pattern: str = "", alpha: float = 6.0):
    """diffusers' network, and a trained policy on ComfyUI's of the same weights."""
    theirs, model = TWINS[kind]()
    policy = create_policy(model, Recipe(rank=4, alpha=alpha, targets=LAYERS, pattern=pattern))
    generator = torch.Generator().manual_seed(7)
    for key, value in policy.bank.items():
        if key.endswith("lora_B"):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.05)
    return theirs, policy


def pipeline(kind: str):
    import diffusers

    names = {"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline", "flux": "FluxPipeline"}
    return getattr(diffusers, names[kind])


def read_by_diffusers(kind: str, network, tensors: dict) -> None:
    """As ``load_lora_weights`` does, without a whole pipeline."""
    if kind == "flux":
        state, alphas = pipeline(kind).lora_state_dict(dict(tensors), return_alphas=True)
        pipeline(kind).load_lora_into_transformer(state, network_alphas=alphas, transformer=network)
    else:
        more = {"unet_config": network.config} if kind == "sdxl" else {}
        state, alphas = pipeline(kind).lora_state_dict(dict(tensors), **more)
        pipeline(kind).load_lora_into_unet(state, network_alphas=alphas, unet=network)


@pytest.mark.parametrize("kind", TWINS)
@pytest.mark.parametrize("target", [DIFFUSERS, KOHYA])
def test_diffusers_draws_with_the_lora_as_comfyui_does(kind, target):
    theirs, policy = twins(kind, OF_ANY_SIZE.get((kind, target), ""))
    before = their_answer(kind, theirs)
    torch.testing.assert_close(before, our_answer(kind, policy.model), rtol=1e-4, atol=1e-5)
    read_by_diffusers(kind, theirs, lora_as(policy, target))
    ours = our_answer(kind, policy_as_model(policy))
    change = (ours - before).abs().mean()
    assert change > 1e-3 and (their_answer(kind, theirs) - ours).abs().mean() < 1e-4 * change
