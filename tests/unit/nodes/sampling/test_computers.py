"""The addresses that a user writes, and what makes the model there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from comfy_execution.graph import DynamicPrompt
from posttrain.nodes.access import AddressNotAllowed
from posttrain.nodes.sampling import computers as module
from posttrain.nodes.sampling.computers import MOST, PTOtherComputers, addresses_of, files_of, made_by


def test_addresses_stand_one_on_a_line():
    assert addresses_of(" http://127.0.0.1:1/ \n\nhttps://far/comfy\n") == ("http://127.0.0.1:1", "https://far/comfy")


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "addresses: 0 are not possible"),
        ("http://a\n" * (MOST + 1), f"1 to {MOST}"),
        ("http://a\nhttp://a/", "stands there twice"),
        ("file:///etc/passwd", "must begin with http"),
        ("http://me:secret@far:1", "holds a name or a password"),
        ("http://far:8188/?x=1", "Example: http://192.168.0.5:8188"),
    ],
)
def test_what_is_no_address_is_refused(text, words):
    with pytest.raises(ValueError, match=words):
        addresses_of(text)


def test_this_comfyui_itself_is_refused_which_would_wait_for_itself(monkeypatch):
    monkeypatch.setattr(module, "page_server", lambda: SimpleNamespace(port=8188))
    for address in ("http://127.0.0.1:8188", "http://localhost:8188/"):
        with pytest.raises(ValueError, match="is this ComfyUI itself"):
            addresses_of(address)
    assert addresses_of("http://127.0.0.1:8189\nhttp://far:8188")


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs, "is_changed": [1]}


def test_all_that_makes_model_and_clip_goes_along_and_nothing_else():
    graph = DynamicPrompt(
        {
            "1": node("CheckpointLoaderSimple", ckpt_name="mine.safetensors"),
            "2": node("LoraLoader", model=["1", 0], clip=["1", 1], lora_name="style.safetensors"),
            "3": node("ModelSamplingSD3", model=["2", 0], shift=3.0),
            "4": node("PTCreatePolicy", model=["3", 0]),
            "5": node("PTOtherComputers", model=["3", 0], clip=["2", 1]),
        }
    )
    source = made_by(graph, "5")
    assert source.model == ("3", 0) and source.clip == ("2", 1) and set(source.nodes) == {"1", "2", "3"}
    assert source.nodes["3"] == {"class_type": "ModelSamplingSD3", "inputs": {"model": ["2", 0], "shift": 3.0}}
    assert source.kinds() == {"CheckpointLoaderSimple", "LoraLoader", "ModelSamplingSD3"}


def test_the_model_files_that_its_nodes_name_are_told_with_their_bytes(models):
    (models / "loras").mkdir(exist_ok=True)
    (models / "loras" / "style.safetensors").write_bytes(b"x" * 30)
    nodes = {"1": node("LoraLoader", lora_name="style.safetensors", text="a cat. a dog.", strength=1.0, model=["2", 0])}
    assert files_of(nodes) == {"style.safetensors": {"loras": 30}}


def test_inside_of_a_loop_nobody_knows_what_made_them():
    graph = DynamicPrompt({"1": node("PTLoopFeed", key="x"), "5": node("PTOtherComputers", model=["1", 0], clip=["1", 1])})
    with pytest.raises(ValueError, match="stands inside the loop"):
        made_by(graph, "5")


def test_another_machine_is_asked_for_nothing_before_the_user_has_allowed_it():
    with pytest.raises(AddressNotAllowed, match="prompts and the LoRA in training would be sent to http://far:8188"):
        PTOtherComputers().run(object(), object(), "http://far:8188", "euler", "float32", 60.0)
