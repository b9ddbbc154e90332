"""The saved LoRA's name and what its file tells others."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from posttrain.nodes.model.export import FOR, PTSaveLora, card, checked_name
from posttrain.nodes.model.policy import PTCreatePolicy
from posttrain.nodes.privacy import for_others, without_places
from posttrain.trainers.policy.from_lora import read_lora

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
    return SimpleNamespace(metrics={"loss": 1.0}, iteration=3, step=5, recipe=recipe, model=model, numbers={"words": "steps 8"})


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
