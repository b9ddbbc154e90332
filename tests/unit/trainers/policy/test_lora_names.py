"""diffusers' and peft's files, as they save them, through the host's own loader once names and alphas are its own."""

from __future__ import annotations

import json

import pytest
import torch
from posttrain.trainers.policy.lora_names import as_the_host_reads

pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytest.importorskip("comfy.ldm.chroma_radiance", reason="older hosts than those of the small architectures")
import comfy.lora  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
from posttrain.tests.unit.trainers.policy.diffusers_families import (  # noqa: E402
    TWINS,
    answer,
    comfyui_model,
    diffusers_network,
    questions,
)
from posttrain.tests.unit.trainers.policy.diffusers_loras import (  # noqa: E402
    ALPHA,
    RANK,
    as_peft_saves,
    as_pipeline_saves,
    largest_error,
    peft_network,
    weights_of,
)

PAIR = {f"transformer.a.0.{part}.weight": torch.ones(RANK, RANK) for part in ("lora_A", "lora_B")}
# (what saves it there, an alpha that the file keeps); peft's file keeps none, its folder's adapter_config.json does
SAVED = [(as_pipeline_saves, ALPHA), (as_peft_saves, RANK)]


@pytest.mark.parametrize("save, alpha", SAVED, ids=["pipeline", "peft"])
@pytest.mark.parametrize("name", ["SD1.5", "SDXL", "SD3, SD3.5", "Flux", "Qwen-Image", "AuraFlow", "HiDream"])
def test_what_is_saved_there_answers_here(name, save, alpha, tmp_path):
    twin = TWINS[name]
    model = comfyui_model(twin)
    weights = weights_of(model)
    wrapped = peft_network(twin, weights, alpha)
    save(twin, wrapped, tmp_path)
    file, told = comfy.utils.load_torch_file(str(tmp_path / "lora.safetensors"), safe_load=True, return_metadata=True)
    read = as_the_host_reads(file, told or {}, comfy.lora.model_lora_keys_unet(model.model, {}))
    asked = questions(comfy.sd.load_lora_for_models(model, None, read, 1.0, 0)[0], twin)
    network, plain = wrapped.base_model.model, diffusers_network(twin, weights)
    change = max(float((answer(plain, twin, each) - answer(network, twin, each)).abs().max()) for each in asked)
    assert largest_error(network, twin, asked) <= 1e-4 * change


def alpha_of(settings: object, tensors=PAIR) -> float | None:
    told = {"lora_adapter_metadata": settings if isinstance(settings, str) else json.dumps(settings)}
    found = as_the_host_reads(tensors, told, ()).get("transformer.a.0.alpha")
    return None if found is None else float(found)


def test_an_alpha_is_that_of_the_layer_else_the_general_one():
    assert alpha_of({"transformer.lora_alpha": 5}) == 5.0
    assert alpha_of({"transformer.lora_alpha": 5, "transformer.alpha_pattern": {"^a.0": 7}}) == 7.0
    assert alpha_of({"transformer.lora_alpha": 5, "transformer.alpha_pattern": {"0": 7, "b": 9}}) == 7.0
    assert alpha_of({"transformer.lora_alpha": 5, "transformer.alpha_pattern": {"^0": 7}}) == 5.0
    assert alpha_of({"text_encoder.lora_alpha": 5}) is None


@pytest.mark.parametrize("pattern", ["(a+)+$", r"a.\d", ".*0", "[a]", "a|b"])
def test_a_regular_expression_of_a_file_is_refused_not_run(pattern):
    with pytest.raises(ValueError, match="give alpha by the regular expression"):
        alpha_of({"transformer.lora_alpha": 5, "transformer.alpha_pattern": {pattern: 7}})


def test_rslora_is_counted_as_the_host_counts():
    """Its scale is alpha / sqrt(rank), the host's alpha / rank."""
    found = alpha_of({"transformer.lora_alpha": 6, "transformer.use_rslora": True})
    assert found / RANK == pytest.approx(6 / RANK**0.5, rel=1e-6)


def test_an_alpha_in_the_file_stays():
    tensors = {**PAIR, "transformer.a.0.alpha": torch.tensor(2.0)}
    assert alpha_of({"transformer.lora_alpha": 5}, tensors) == 2.0


@pytest.mark.parametrize(
    "settings",
    [
        "",
        "[",
        "[]",
        "7",
        '{"transformer.lora_alpha": "5"}',
        {"transformer.lora_alpha": float("nan")},
        {"transformer.lora_alpha": True},
    ],
    ids=str,
)
def test_metadata_that_says_nothing_changes_nothing(settings):
    assert alpha_of(settings) is None
    assert as_the_host_reads(PAIR, {}, ()).keys() == PAIR.keys()
