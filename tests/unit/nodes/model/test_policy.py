"""Create Policy from a LoRA: a file or Train LoRA's output, what the node says, and what it refuses before anything is done."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import folder_paths
import pytest
import safetensors.torch
import torch
from posttrain.nodes.guard import check
from posttrain.nodes.loop.settings import settings_of
from posttrain.nodes.model.lora_file import digest_of, lora_menu, read_lora_file
from posttrain.nodes.model.policy import AS_IT_CAME, WITHOUT, PTCreatePolicy
from posttrain.toy.models import load_model

LAYERS = {"joint_blocks.0.x_block.attn.qkv": 2, "joint_blocks.1.x_block.mlp.fc1": 3}


def demo():
    return load_model("flow")


def small_lora(seed: int = 0) -> dict[str, torch.Tensor]:
    """For two layers of the demo's model, as Train LoRA would hand it on."""
    random, tensors = torch.Generator().manual_seed(seed), {}
    for name, rank in LAYERS.items():
        out, into = demo().model.diffusion_model.get_submodule(name).weight.shape
        tensors |= {
            f"diffusion_model.{name}.lora_up.weight": torch.randn(out, rank, generator=random) * 0.1,
            f"diffusion_model.{name}.lora_down.weight": torch.randn(rank, into, generator=random) * 0.1,
            f"diffusion_model.{name}.alpha": torch.tensor(1.0),
        }
    return tensors


@pytest.fixture
def loras(tmp_path, monkeypatch):
    """models/loras with a LoRA in it, a damaged file, and two that could run code."""
    names = dict(folder_paths.folder_names_and_paths)
    names["loras"] = ([str(tmp_path)], {".safetensors", ".sft", ".pt", ".ckpt"})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", names)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    safetensors.torch.save_file(small_lora(), tmp_path / "mine.safetensors", {"ss_base_model_version": "sd3"})
    (tmp_path / "damaged.safetensors").write_bytes(b"\0" * 100)
    for name in ("old.pt", "old.ckpt"):
        (tmp_path / name).write_bytes(pickle.dumps(SimpleNamespace()))
    return tmp_path


def created(**given):
    return PTCreatePolicy().run(demo(), 4, 4.0, "all linear layers", 0, **given)


def test_a_file_and_a_wire_give_the_same_policy(loras):
    by_file, by_wire = created(lora="mine.safetensors"), created(lora_model=small_lora())
    for given in (by_file, by_wire):
        words, reference = given["ui"]["text"][:2]
        assert "Begins from your LoRA: 2 layers, ranks 2 to 3" in words and "are not used" in words and WITHOUT in reference
    ours, theirs = (given["result"][0].bank for given in (by_file, by_wire))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert by_file["result"][0].anchors == {}


def test_the_reference_is_chosen(loras):
    (policy,) = created(lora="mine.safetensors", reference=AS_IT_CAME)["result"]
    assert policy.anchors["reference"].keys() == policy.bank.keys()


def test_without_one_nothing_changes(loras):
    policies = [created()["result"][0], created(lora="none", reference=AS_IT_CAME, partly=True)["result"][0]]
    assert all(policy.anchors == {} and policy.recipe.rank == 4 and policy.recipe.members is None for policy in policies)


REFUSED = {
    "old.pt": r"is a \.pt file, which can run a program",
    "old.ckpt": r"is a \.ckpt file",
    "gone.safetensors": "is not in models/loras",
    "../mine.safetensors": "is not in models/loras",
    "damaged.safetensors": r"cannot be read .* damaged",
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_not_read(loras, name):
    with pytest.raises(ValueError, match=f"^lora: .*{REFUSED[name]}"):
        created(lora=name)
    if name != "damaged.safetensors":  # before the training
        assert PTCreatePolicy.VALIDATE_INPUTS(lora=name).startswith("lora: ")


def test_a_wire_is_named_by_its_own_name(loras):
    with pytest.raises(ValueError, match="^lora_model: it holds no LoRA"):
        created(lora_model={"a.weight": torch.ones(2)})
    with pytest.raises(ValueError, match="^lora_model: a LoRA's weights are needed"):
        created(lora_model=object())
    with pytest.raises(ValueError, match="^lora: a file is chosen and a LORA_MODEL is wired"):
        created(lora="mine.safetensors", lora_model=small_lora())
    assert (
        PTCreatePolicy.VALIDATE_INPUTS(lora="mine.safetensors") is True and PTCreatePolicy.VALIDATE_INPUTS(lora="none") is True
    )


def test_the_menu_and_the_metadata(loras):
    assert lora_menu() == ["none", "damaged.safetensors", "mine.safetensors", "old.ckpt", "old.pt"]
    assert read_lora_file("mine.safetensors")[1] == {"ss_base_model_version": "sd3"}


def graph(name: str) -> dict:
    return {
        "1": {"class_type": "PTCreatePolicy", "inputs": {"rank": 4, "lora": name, "reference": AS_IT_CAME}},
        "2": {"class_type": "PTTrain", "inputs": {"policy": ["1", 0]}},
    }


def test_a_run_knows_the_file_by_what_it_holds(loras):
    """Another name or place is the same run, another content is not; a workflow from before the menu is one with none."""
    first = settings_of(graph("mine.safetensors"), "2", ("policy",))
    assert first["PTCreatePolicy.lora"].startswith("sha256:") and "mine" not in str(first)
    (loras / "mine.safetensors").rename(loras / "other.safetensors")
    folder_paths.filename_list_cache.clear()
    assert settings_of(graph("other.safetensors"), "2", ("policy",)) == first
    safetensors.torch.save_file(small_lora(seed=1), loras / "other.safetensors")
    assert settings_of(graph("other.safetensors"), "2", ("policy",)) != first
    assert digest_of("gone.safetensors") == "gone.safetensors"
    before = {"1": {"class_type": "PTCreatePolicy", "inputs": {"rank": 4}}, "2": graph("none")["2"]}
    now = {
        **before,
        "1": {
            "class_type": "PTCreatePolicy",
            "inputs": {"rank": 4, "lora": "none", "reference": WITHOUT, "partly": False, "kind": "LoRA"},
        },
    }
    assert settings_of(now, "2", ("policy",)) == settings_of(before, "2", ("policy",))


def test_the_host_asks_again_when_the_file_is_another(loras):
    before = PTCreatePolicy.IS_CHANGED(lora="mine.safetensors")
    safetensors.torch.save_file(small_lora(seed=1), loras / "mine.safetensors")
    assert PTCreatePolicy.IS_CHANGED(lora="mine.safetensors") != before
    assert PTCreatePolicy.IS_CHANGED(lora="none") == PTCreatePolicy.IS_CHANGED()


@pytest.mark.parametrize("kind", ["LoRA", "rsLoRA", "LoHa", "LoKr", "OFT"])
def test_each_kind_is_created_and_said(kind):
    given = created(kind=kind)
    assert given["result"][0].recipe.kind == kind and f"The LoRA, as {kind}: rank 4" in given["ui"]["text"][-3]
    check(PTCreatePolicy, {"kind": kind})
