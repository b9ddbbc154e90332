"""LoRAs that lie under the policy and the trained one as one file: exact, or the best of a rank."""

from __future__ import annotations

from dataclasses import replace

import comfy.lora
import comfy.sd
import pytest
import torch
from posttrain.tests.unit.trainers.policy.diffusers_twins import our_answer
from posttrain.tests.unit.trainers.policy.test_interchange import twins
from posttrain.trainers.policy import Recipe, create_policy, lora_state_dict, policy_as_model
from posttrain.trainers.policy.interchange import COMFYUI, DIFFUSERS, in_names
from posttrain.trainers.policy.together import together
from small_models import trained_policy


def on(policy, tensors, strength=0.7):
    """The policy on its MODEL with this LoRA below."""
    model, _ = comfy.sd.load_lora_for_models(policy.model, None, tensors, strength, 0)
    return replace(policy, model=model)


def other_lora(kind: str, rank: int = 3, seed: int = 11, target: str = COMFYUI) -> dict:
    _, policy = twins(kind, alpha=5.0)
    policy = create_policy(policy.model, Recipe(rank=rank, alpha=5.0, targets="all linear layers and convolutions", seed=seed))
    for key, value in policy.bank.items():
        if key.endswith("lora_B"):
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)) * 0.05)
    from posttrain.trainers.policy.interchange import lora_as

    return lora_as(policy, target)


@pytest.mark.parametrize("kind, target", [("sd15", COMFYUI), ("flux", COMFYUI), ("flux", DIFFUSERS)])
def test_the_sum_on_the_bare_model_is_the_policy_on_its_model(kind, target):
    """With two LoRAs below, of other ranks, alphas and strengths; under diffusers' names they come in parts and turned."""
    _, policy = twins(kind)
    below = on(on(policy, other_lora(kind, target=target)), other_lora(kind, 2, 12, target), -0.4)
    found = together(below)
    assert found.below == len(policy.bank) // 2 and found.lost == 0
    loaded, _ = comfy.sd.load_lora_for_models(policy.model, None, in_names(found.lora, policy.model, COMFYUI), 1.0, 0)
    expected = our_answer(kind, policy_as_model(below))
    torch.testing.assert_close(our_answer(kind, loaded), expected, rtol=1e-4, atol=1e-5)
    assert (expected - our_answer(kind, policy_as_model(policy))).abs().mean() > 1e-3


def test_a_rank_that_is_enough_loses_nothing_and_a_smaller_one_as_much_as_it_says():
    _, policy = twins("sd15")
    below = on(policy, other_lora("sd15"))
    whole = {
        layer: pair.up.flatten(1) @ pair.down.flatten(1) * pair.alpha / pair.rank
        for layer, pair in together(below).lora.items()
    }
    assert together(below, 7).lost < 1e-6
    found = together(below, 2)
    assert {pair.rank for pair in found.lora.values()} == {2}
    cut = {layer: pair.up.flatten(1) @ pair.down.flatten(1) * pair.alpha / pair.rank for layer, pair in found.lora.items()}
    lost = sum((whole[layer] - cut[layer]).square().sum() for layer in whole) / sum(
        value.square().sum() for value in whole.values()
    )
    assert found.lost == pytest.approx(float(lost.sqrt()), rel=1e-4) and 0.1 < found.lost < 1
    layer = next(iter(whole))
    singular = torch.linalg.svdvals(whole[layer].double())
    assert float((whole[layer] - cut[layer]).norm()) == pytest.approx(float(singular[2:].norm()), rel=1e-4)


def loha(policy) -> dict:
    """A LoHa on two of the policy's layers, in the host's names."""
    tensors = {}
    for seed, (key, up) in enumerate([(k, v) for k, v in policy.bank.items() if k.endswith("lora_B") and v.ndim == 2][:2]):
        layer = key.removesuffix(".lora_B")
        down = policy.bank[f"{layer}.lora_A"]
        generator = torch.Generator().manual_seed(seed)
        for part, shape in {
            "w1_a": (up.shape[0], 2),
            "w1_b": (2, down.shape[1]),
            "w2_a": (up.shape[0], 2),
            "w2_b": (2, down.shape[1]),
        }.items():
            tensors[f"diffusion_model.{layer}.hada_{part}"] = torch.randn(shape, generator=generator) * 0.3
        tensors[f"diffusion_model.{layer}.alpha"] = torch.tensor(2.0)
    return tensors


def dora(policy) -> dict:
    key = next(k for k, v in policy.bank.items() if k.endswith("lora_B") and v.ndim == 2)
    layer = key.removesuffix(".lora_B")
    tensors = {k: v for k, v in lora_state_dict(policy).items() if k.startswith(f"diffusion_model.{layer}.")}
    return tensors | {f"diffusion_model.{layer}.dora_scale": torch.full((policy.bank[key].shape[0], 1), 1.3)}


@pytest.mark.parametrize("make, name", [(loha, "loha"), (dora, "DoRA")])
def test_what_is_no_plain_lora_is_refused_exactly_and_taken_in_when_cut(make, name):
    _, policy = twins("sd15")
    below = on(policy, make(policy), 1.0)
    assert below.model.patches
    with pytest.raises(ValueError, match=f"lies a {name}, which is no plain LoRA .* cut the sum to a rank"):
        together(below)
    found = together(below, 64)
    assert found.lost < 1e-4
    loaded, _ = comfy.sd.load_lora_for_models(policy.model, None, in_names(found.lora, policy.model, COMFYUI), 1.0, 0)
    torch.testing.assert_close(our_answer("sd15", loaded), our_answer("sd15", policy_as_model(below)), rtol=1e-3, atol=1e-4)
    assert together(below, 2).lost > 1e-3


@pytest.mark.parametrize("rank", [None, 8])
def test_a_bias_below_is_refused_by_name(rank):
    policy = trained_policy("sd3")
    key = next(k for k in policy.model.model.state_dict() if k.endswith("attn.proj.bias"))
    model = policy.model.clone()
    model.add_patches({key: ("diff", (torch.ones(model.model.state_dict()[key].shape),))}, 1.0)
    with pytest.raises(ValueError, match=f"changes {key}, which no LoRA can"):
        together(replace(policy, model=model), rank)


def test_a_merge_of_models_below_is_refused_exactly():
    policy = trained_policy("sd3")
    model, patches = (
        policy.model.clone(),
        trained_policy("sd3").model.get_key_patches("diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"),
    )
    model.add_patches(patches, 0.5, 0.5)
    with pytest.raises(ValueError, match="a merge of models"):
        together(replace(policy, model=model))


def test_the_weights_and_the_model_stay_as_they_are():
    _, policy = twins("sd15")
    below = on(policy, loha(policy))
    before = {key: value.clone() for key, value in below.model.model.state_dict().items()}
    bank = {key: value.clone() for key, value in policy.bank.items()}
    together(below, 4)
    assert all(torch.equal(value, before[key]) for key, value in below.model.model.state_dict().items())
    assert all(torch.equal(value, bank[key]) for key, value in policy.bank.items())


def test_nothing_below_is_what_was_trained():
    policy = trained_policy("sd3")
    found = together(policy)
    assert found.below == 0
    ours = lora_state_dict(policy)
    for key, value in in_names(found.lora, policy.model, COMFYUI).items():
        assert torch.equal(value, ours[key])
