"""A policy's LoRA as PEFT's folder, read back by PEFT on diffusers' networks."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.policy.diffusers_twins import TWINS, our_answer, their_answer
from posttrain.tests.unit.trainers.policy.test_interchange import twins
from posttrain.trainers.policy import policy_as_model
from posttrain.trainers.policy.interchange import trained
from posttrain.trainers.policy.peft_folder import save_peft_folder


@pytest.mark.parametrize("kind", TWINS)
def test_peft_draws_with_the_folder_as_comfyui_does(kind, tmp_path):
    import peft

    theirs, policy = twins(kind)
    before = their_answer(kind, theirs)
    folder = save_peft_folder(trained(policy), policy.model, tmp_path / "lora", {"note": "test"})
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    assert config["r"] == 4 and config["lora_alpha"] == 6.0 and config["peft_type"] == "LORA"
    theirs = peft.PeftModel.from_pretrained(theirs, folder)
    ours = our_answer(kind, policy_as_model(policy))
    change = (ours - before).abs().mean()
    assert change > 1e-3 and (their_answer(kind, theirs) - ours).abs().mean() < 1e-4 * change


def test_ranks_and_alphas_that_differ_are_patterns(tmp_path):
    import peft

    theirs, policy = twins("sd15")
    lora = trained(policy)
    names = list(lora)
    for at, name in enumerate(names[::3]):
        pair = lora[name]
        twice = replace(pair, down=torch.cat([pair.down, pair.down]), up=torch.cat([pair.up, pair.up], 1))
        lora[name] = twice if at % 2 else replace(twice, alpha=1.5)
    folder = save_peft_folder(lora, policy.model, tmp_path / "lora", {})
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    assert len(config["rank_pattern"]) == len(names[::3]) and len(config["alpha_pattern"]) == len(names[::6])
    from comfy.sd import load_lora_for_models
    from posttrain.trainers.policy.interchange import COMFYUI, in_names

    loaded, _ = load_lora_for_models(policy.model, None, in_names(lora, policy.model, COMFYUI), 1.0, 0)
    found = their_answer("sd15", peft.PeftModel.from_pretrained(theirs, folder))
    torch.testing.assert_close(found, our_answer("sd15", loaded), rtol=1e-4, atol=1e-5)


def test_without_peft_it_says_what_to_install(tmp_path, monkeypatch):
    _, policy = twins("sd15")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match="'peft' is needed .*\"interchange\".* or save one file for diffusers"):
        save_peft_folder(trained(policy), policy.model, tmp_path / "lora", {})
    assert not (tmp_path / "lora").exists()
