"""A policy's LoRA in the names of other tools, read back by those tools: ComfyUI, diffusers' loaders and converters."""

from __future__ import annotations

from dataclasses import replace

import architectures
import comfy.lora
import comfy.sd
import comfy.utils
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


@pytest.mark.parametrize("kind", TWINS)
@pytest.mark.parametrize("target", [COMFYUI, KOHYA])
def test_the_stock_loader_reads_both_of_comfyuis_ways(kind, target):
    _, policy = twins(kind)
    loaded, _ = comfy.sd.load_lora_for_models(policy.model, None, lora_as(policy, target), 1.0, 0)
    assert loaded.patches.keys() == {
        f"diffusion_model.{key.removesuffix('.lora_A')}.weight" for key in policy.bank if "lora_A" in key
    }
    torch.testing.assert_close(our_answer(kind, loaded), our_answer(kind, policy_as_model(policy)), rtol=1e-5, atol=1e-6)


def test_a_fused_layer_is_cut_as_the_host_puts_it_together():
    """The host reads its own names: what it makes of all parts is the layer, to the last digit."""
    _, policy = twins("flux", alpha=4.0)
    tensors = lora_as(policy, DIFFUSERS)
    assert {key.rsplit(".", 3)[1] for key in tensors if "single_transformer_blocks.0" in key} >= {
        "to_q",
        "to_k",
        "to_v",
        "proj_mlp",
    }
    loaded, _ = comfy.sd.load_lora_for_models(policy.model, None, tensors, 1.0, 0)
    ours = policy_as_model(policy)
    for key, patches in ours.patches.items():
        weight = torch.zeros(ours.model.state_dict()[key].shape)
        whole = comfy.lora.calculate_weight(patches, weight.clone(), key)
        parts = comfy.lora.calculate_weight(loaded.patches[key], weight.clone(), key)
        assert torch.equal(parts, whole) and whole.abs().sum() > 0, key


@pytest.mark.parametrize("kind", architectures.HERE)
def test_every_kind_of_model_has_kohyas_names_and_those_of_diffusers_or_a_reason(kind):
    """What the host reads back under kohya's names is each layer's own LoRA; of transformers also under diffusers' names."""
    try:
        policy = trained_policy(kind, rank=2)
    except ValueError as refused:  # docs/models.md says of each why
        assert str(refused).startswith("model: ") and "; use a model" in str(refused)
        return
    ours, read = policy_as_model(policy).patches, {}
    read[KOHYA] = comfy.sd.load_lora_for_models(policy.model, None, lora_as(policy, KOHYA), 1.0, 0)[0].patches
    for key, patches in ours.items():
        (patch,), (found,) = patches, read[KOHYA][key]
        assert all(
            torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(patch[1].weights[:3], found[1].weights[:3])
        )
    try:
        tensors = lora_as(policy, DIFFUSERS)
    except ValueError as refused:
        assert "save for ComfyUI" in str(refused) or "possible are ComfyUI" in str(refused)
        return
    first = next(iter(tensors)).split(".lora_")[0]
    if first.startswith("unet.") or first not in comfy.lora.model_lora_keys_unet(policy.model.model, {}):
        return  # the host reads UNets under older names of diffusers' and, in older versions, no Z-Image under "transformer."
    read = comfy.sd.load_lora_for_models(policy.model, None, tensors, 1.0, 0)[0].patches
    for key, patches in ours.items():
        rows = sum(patch[1].weights[0].shape[0] for patch in read[key])
        assert rows == patches[0][1].weights[0].shape[0], key


@pytest.mark.parametrize("kind", ["sd3", "sd15", "sd2_v", "sdxl"])
@pytest.mark.parametrize("target", [KOHYA, DIFFUSERS, PEFT])
def test_nothing_is_lost_on_the_way(kind, target):
    policy = trained_policy(kind)
    names = names_of(policy.model, target)
    rows = {key.removesuffix(".lora_B"): value.shape[0] for key, value in policy.bank.items() if key.endswith("lora_B")}
    tensors = lora_as(policy, target)
    ups = {key: value for key, value in tensors.items() if "lora_B" in key or "lora_up" in key}
    for layer, outputs in rows.items():
        found = [value.shape[0] for key, value in ups.items() for name in names[layer] if key.startswith(f"{name.text}.lora_")]
        assert sum(found) == outputs * (len(names[layer]) if names[layer][0].rows is None else 1), layer


@pytest.mark.parametrize(
    "kind, target, said",
    [
        ("lumina", DIFFUSERS, "another network than Lumina2"),
        ("lumina", PEFT, "another network than Lumina2"),
        ("flux", DIFFUSERS, "another network than Flux"),  # of another width of the feed-forward than all Flux have
    ],
)
def test_names_that_do_not_fit_the_network_are_refused(kind, target, said):
    if kind == "flux" and any("to_qkv_mlp_proj" in name for name in comfy.utils.flux_to_diffusers({"depth_single_blocks": 1})):
        pytest.skip("this host has names for Flux.2 too, which are of any width")
    with pytest.raises(ValueError, match=said) as refused:
        lora_as(trained_policy(kind), target)
    assert "save for ComfyUI" in str(refused.value)


def test_a_model_without_such_names_is_refused_by_name():
    if "Wan 2.1" not in architectures.HERE:
        pytest.skip("this host has no Wan")
    policy = trained_policy("Wan 2.1")
    with pytest.raises(
        ValueError, match="no names for WAN21_T2V that diffusers would know; possible are ComfyUI, .* and kohya"
    ):
        lora_as(policy, DIFFUSERS)
    assert len(lora_as(policy, KOHYA)) == len(policy.bank) * 3 // 2


def test_a_layer_without_a_name_is_refused_and_not_dropped():
    policy = create_policy(small_model("sd3"), Recipe(rank=2, targets="all linear layers"))
    known = names_of(policy.model, DIFFUSERS)
    bank = {**policy.bank, "a.layer.of.mine.lora_A": torch.ones(2, 4), "a.layer.of.mine.lora_B": torch.ones(4, 2)}
    assert "a.layer.of.mine" not in known
    with pytest.raises(ValueError, match=r"diffusers: ComfyUI has no name .* for 1 of the .* \(a.layer.of.mine\)"):
        lora_as(replace(policy, bank=bank), DIFFUSERS)


@pytest.mark.parametrize("precision, step", [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_precision_by_choice(precision, step):
    policy = trained_policy("sd3")
    exact, stored = lora_as(policy, KOHYA), lora_as(policy, KOHYA, precision)
    for key, value in stored.items():
        if key.endswith(".alpha"):
            assert value.dtype == torch.float32
            continue
        assert value.dtype == getattr(torch, precision) and exact[key].dtype == torch.float32
        torch.testing.assert_close(value.float(), exact[key], rtol=step, atol=1e-7)


def test_numbers_that_float16_cannot_hold_are_refused():
    policy = trained_policy("sd3")
    key = next(key for key in policy.bank if key.endswith("lora_B"))
    policy = replace(policy, bank={**policy.bank, key: policy.bank[key] * 1e7})
    with pytest.raises(ValueError, match="holds numbers that float16 cannot; choose bfloat16 or float32"):
        lora_as(policy, COMFYUI, "float16")
    assert lora_as(policy, COMFYUI, "bfloat16") and lora_state_dict(policy)
