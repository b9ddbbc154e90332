"""The saved LoRA's name and what its file tells others."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import comfy.sd
import comfy.utils
import pytest
import safetensors.torch
import torch
from posttrain.nodes.model.export import ADD, ADD_CUT, FOR, PTSaveLora, card, checked_name
from posttrain.nodes.model.policy import PTCreatePolicy
from posttrain.nodes.privacy import for_others, without_places
from posttrain.tests.unit.trainers.policy.small_models import trained_policy
from posttrain.trainers.policy import lora_state_dict
from posttrain.trainers.policy.from_lora import read_lora
from posttrain.trainers.policy.interchange import PRECISIONS, lora_as
from safetensors import safe_open

PLACES = [
    "/srv/somebody/pictures/cats",
    "~/secret/x.txt",
    "C:\\Users\\some body\\x",
    "\\\\server\\share\\x",
    "D:/data/x y/z.jsonl",
    "see /mnt/disk/some/file.png there",
    "(/srv/data/x)",
    '{"file": "/srv/data/x"}',
]
PLAIN = [
    "a cat / a dog",
    "and/or",
    "posttrain/my_lora",
    "1/2 of it",
    "a photo, 50mm f/1.8",
    "w/o people",
    "masterpiece",
    "",
    "a\n/b",
]
ADDRESSES = ["http://user:hunter2@judge-host:8000/v1", "https://10.0.0.7/v1", "ws://x-host"]
NO_NAMES = [
    "",
    " ",
    "..",
    "a/../b",
    "/a",
    "a//b",
    "con",
    "posttrain/NUL",
    "aux.x",
    "com1",
    "lpt9.safetensors",
    "a\0",
    "a\nb",
    "a\x1fb",
    "a\u2028b",
    "a\udc80",
    "a.",
    "a /b",
    "a" * 300,
    "a:b",
    "a?b",
    "/".join("a" * 50),
    "x/" * 9 + "x",
]


def policy():
    recipe, model = SimpleNamespace(rank=4, alpha=4.0, start="kaiming"), SimpleNamespace(model=object())
    return SimpleNamespace(
        metrics={"loss": 1.0}, iteration=3, step=5, recipe=recipe, model=model, run={}, numbers={"words": "steps 8"}
    )


@pytest.mark.parametrize("text", PLACES)
def test_places_of_this_machine_are_not_told(text):
    told = without_places(text)
    for part in ("home", "somebody", "secret", "Users", "server", "data", "mnt", "disk", "srv"):
        assert part not in told, told


@pytest.mark.parametrize("text", PLAIN)
def test_prompts_stay_as_they_are(text):
    assert without_places(text) == for_others(text) == text


@pytest.mark.parametrize("text", [*PLACES, *ADDRESSES])
def test_a_lora_holds_neither_paths_nor_addresses(text):
    prompt = {"1": {"class_type": "PTVLMServer", "inputs": {"url": text, "list": [text, {"deep": text}]}}}
    workflow = {
        "nodes": [
            {"type": "PTVLMServer", "widgets_values": [text]},
            {"type": "MarkdownNote", "widgets_values": ["see https://arxiv.org/abs/2505.05470"]},
        ]
    }
    facts = card(policy(), prompt, {"workflow": workflow})
    whole = "".join(facts.values())
    assert text not in whole and json.dumps(text)[1:-1] not in whole and "hunter2" not in whole and "judge" not in whole
    assert "https://arxiv.org/abs/2505.05470" in facts["workflow"]
    assert json.loads(facts["prompt"])["1"]["class_type"] == "PTVLMServer" and facts["posttrain.steps"] == "3"


def test_no_workflow_is_written_where_comfyui_shall_write_none(monkeypatch):
    from comfy.cli_args import args

    graphs = {"1": {"class_type": "X", "inputs": {}}}, {"workflow": {"nodes": []}}
    assert {"prompt", "workflow"} <= card(policy(), *graphs).keys()
    monkeypatch.setattr(args, "disable_metadata", True)
    facts = card(policy(), *graphs)
    assert not {"prompt", "workflow"} & facts.keys() and facts["posttrain.rank"] == "4"


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_wrong_name_is_said_before_the_training(name):
    said = PTSaveLora.VALIDATE_INPUTS(name)
    assert isinstance(said, str) and said.startswith("file name: ") and len(said.encode()) < 1000
    with pytest.raises(ValueError, match="^file name"):
        checked_name(name)


@pytest.mark.parametrize(
    "name", ["my_lora", "posttrain/my lora {step}", "a\\b", "console", "nullify.v2", "猫/狗", "x.safetensors"]
)
def test_usual_names_pass(name):
    assert PTSaveLora.VALIDATE_INPUTS(name) is True and PTSaveLora.VALIDATE_INPUTS() is True


@pytest.mark.parametrize("kind", ["LoHa", "OFT"])
def test_what_is_more_than_matrices_is_saved_for_comfyui_and_refused_elsewhere(kind, tmp_path, monkeypatch):
    from posttrain.toy.models import load_model

    monkeypatch.setattr("posttrain.nodes.model.export.lora_folder", lambda: tmp_path)
    model = load_model("flow")
    (made,) = PTCreatePolicy().run(model, 4, 4.0, "attention", 0, kind=kind)["result"]
    saved = PTSaveLora().run(made, "mine", precision="bfloat16")
    file = safetensors.torch.load_file(tmp_path / "mine.safetensors")
    assert saved["result"][0] == "mine.safetensors" and file.keys() == saved["result"][1].keys()
    assert any("hada" in key or "oft_blocks" in key for key in file)
    again = read_lora(model, saved["result"][1])
    assert all(torch.equal(again.bank[key], made.bank[key]) for key in made.bank)
    for target in list(FOR)[1:]:
        with pytest.raises(ValueError, match=f"^policy: it holds {kind} besides a LoRA's matrices"):
            PTSaveLora().run(made, "mine", made_for=target)


def read(models, file):
    """(tensors, metadata) of what the node has saved."""
    path = models / "loras" / file
    with safe_open(path, framework="pt") as opened_file:
        metadata = opened_file.metadata()
    return comfy.utils.load_torch_file(str(path)), metadata


@pytest.mark.parametrize("made_for, target", FOR.items())
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_file_is_what_was_asked_for(models, made_for, target, precision):
    trained = trained_policy("sd3")
    said = PTSaveLora().run(trained, "a folder/mine", made_for, precision)
    file, lora = said["result"]
    tensors, metadata = read(models, file)
    expected = lora_as(trained, target, precision)
    assert file == ("a folder/mine/adapter_model.safetensors" if target == "peft" else "a folder/mine.safetensors")
    assert tensors.keys() == expected.keys() and all(torch.equal(tensors[key], expected[key]) for key in tensors)
    assert all(value.dtype == PRECISIONS[precision] for key, value in tensors.items() if not key.endswith(".alpha"))
    assert metadata["ss_network_dim"] == metadata["posttrain.rank"] == "4" and metadata["ss_network_alpha"] == "16"
    assert metadata["modelspec.architecture"] == "stable-diffusion-3/lora" and metadata["modelspec.trigger_phrase"] == ""
    assert lora.keys() == lora_state_dict(trained).keys() and said["ui"]["text"][0].endswith(file.split("/", 1)[1])
    assert (models / "loras" / "a folder" / "mine" / "adapter_config.json").is_file() == (target == "peft")


def test_without_the_new_choices_it_saves_as_before(models):
    trained = trained_policy("sd15")
    result = PTSaveLora().run(trained, "x")["result"]
    tensors, metadata = read(models, result[0])
    ours = lora_state_dict(trained)
    assert result[0] == "x.safetensors" and tensors.keys() == ours.keys()
    assert all(torch.equal(tensors[key], ours[key]) and tensors[key].dtype == torch.float32 for key in ours)
    assert metadata["ss_base_model_version"] == "sd_v1" and metadata["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert metadata["ss_network_module"] == "networks.lora" and metadata["ss_tag_frequency"] == "{}"


@pytest.mark.parametrize("made_for", FOR)
def test_another_lora_of_that_name_is_never_replaced_and_the_same_one_not_doubled(models, made_for):
    trained = trained_policy("sd3")
    other = replace(trained, bank={key: value * 2 for key, value in trained.bank.items()}, ema=None)
    said = [PTSaveLora().run(each, "mine", made_for) for each in (trained, other, trained, other)]
    first, second, *again = [each["result"][0] for each in said]
    assert first != second and "mine_2" in second and again == [first, second]
    places = [each["ui"]["posttrain_file"][0] for each in said]
    assert all(place == str(models / "loras" / file) for place, file in zip(places, (first, second, *again)))
    (kept, _), (later, _) = (read(models, file) for file in (first, second))
    assert any(not torch.equal(kept[key], later[key]) for key in kept) and said[1]["ui"]["text"][0].endswith(second)


def test_a_lora_says_which_run_and_rewards_it_comes_from_where_metadata_is_wanted(models, monkeypatch):
    from comfy.cli_args import args

    trained = replace(trained_policy("sd3"), run={"name": "blue cats", "id": "abc"}, iteration=7)
    prompt = {"1": {"class_type": "PTRewardCLIP", "inputs": {}}, "2": {"class_type": "KSampler", "inputs": {}}}
    file = PTSaveLora().run(trained, "{run}/at {step}", prompt=prompt)["result"][0]
    _, facts = read(models, file)
    assert file == "blue cats/at 7.safetensors" and json.loads(facts["posttrain.rewards"]) == ["PTRewardCLIP"]
    assert (facts["posttrain.run"], facts["posttrain.run_id"], facts["posttrain.steps"]) == ("blue cats", "abc", "7")
    monkeypatch.setattr(args, "disable_metadata", True)
    assert not {"posttrain.rewards", "posttrain.run"} & card(trained, prompt, None).keys()


def test_a_refusal_writes_nothing(models):
    with pytest.raises(ValueError, match="diffusers: "):
        PTSaveLora().run(trained_policy("lumina"), "x", "diffusers (one file)")
    assert not (models / "loras").exists() or not list((models / "loras").iterdir())


def test_loras_below_are_in_the_file_where_asked_for_and_the_node_says_what_the_cut_costs(models):
    trained = trained_policy("sd3")
    other = {
        key: value.roll(1, 0) * 0.5 if "lora_B" in key else value.roll(1, 1) if value.ndim else value
        for key, value in lora_state_dict(trained).items()
    }
    model, _ = comfy.sd.load_lora_for_models(trained.model, None, other, 0.5, 0)
    below = replace(trained, model=model)
    ranks, texts = {}, {}
    for choice, rank in ((None, 0), (ADD, 0), (ADD_CUT, 0), (ADD_CUT, 8)):
        said = PTSaveLora().run(below, "x", **({} if choice is None else {"loras_below": choice}), rank=rank)
        tensors, metadata = read(models, said["result"][0])
        ranks[choice, rank] = {value.shape[0] for key, value in tensors.items() if "lora_A" in key}
        texts[choice, rank] = " ".join(said["ui"]["text"])
        assert metadata["ss_network_dim"] == str(*ranks[choice, rank])
    assert ranks == {(None, 0): {4}, (ADD, 0): {8}, (ADD_CUT, 0): {4}, (ADD_CUT, 8): {8}}
    layers = len(trained.bank) // 2
    assert texts[None, 0] == "Saved as x.safetensors" and f"added on {layers} layers" in texts[ADD, 0]
    assert "Cut to rank 8: 0.00% of the whole was lost" in texts[ADD_CUT, 8]
    assert "Cut to rank 4: " in texts[ADD_CUT, 0] and "Cut to rank 4: 0.00%" not in texts[ADD_CUT, 0]


def test_the_hosts_own_nodes_take_the_lora(models, tmp_path, monkeypatch):
    """Load LoRA Model draws with it as with ours; Save LoRA Weights writes it as a file that the stock loader reads."""
    import folder_paths
    from comfy_extras.nodes_train import LoraModelLoader, SaveLoRA
    from posttrain.trainers.policy import policy_as_model

    trained = trained_policy("sd3")
    with torch.inference_mode():
        lora = PTSaveLora().run(trained, "x")["result"][1]
        loaded = LoraModelLoader.execute(trained.model, lora, 0.8).result[0]
    expected = policy_as_model(trained, 0.8)
    assert loaded.patches.keys() == expected.patches.keys()
    for key, ((strength, ours, *_),) in expected.patches.items():
        ((found_strength, found, *_),) = loaded.patches[key]
        assert found_strength == strength and all(torch.equal(a, b) for a, b in zip(found.weights[:2], ours.weights[:2]))
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    with torch.inference_mode():
        SaveLoRA.execute(lora, "loras/mine")
    (file,) = (tmp_path / "output" / "loras").iterdir()
    tensors = comfy.utils.load_torch_file(str(file))
    assert tensors.keys() == lora.keys() and all(torch.equal(tensors[key], lora[key]) for key in lora)
