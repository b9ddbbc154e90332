"""Files of real size: the host knows them by their weights, they are as large as the published ones, and what is written loads."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_detection as detection
import pytest
import torch
from comfy.sd import TEModel, detect_te_model
from posttrain.tools import real_size
from posttrain.tools.real_files import EIGHT, FAMILIES, NETWORKS, parts_of, size_of, write
from posttrain.tools.real_size import FOLDERS, smallest, too_large
from safetensors.torch import load_file

# GB of the files that Comfy-Org, Stability AI and Black Forest Labs publish; SD3.5's is not known here. The encoder of Qwen-Image
# holds a head for words too (1.09 GB), which the host does not read
PUBLISHED = {"own_sd15": {"CheckpointLoaderSimple": 2.13}, "own_sdxl": {"CheckpointLoaderSimple": 6.94}, "own_sd35": {},
             "own_flux": {"CheckpointLoaderSimple": 17.25},
             "own_qwen": {"UNETLoader": 20.43, "CLIPLoader": 9.38 - 1.09, "VAELoader": 0.254},
             "own_z_image": {"UNETLoader": 12.31, "CLIPLoader": 8.04, "VAELoader": 0.335}}  # fmt: skip
ENCODERS = {"own_qwen": TEModel.QWEN25_7B, "own_z_image": TEModel.QWEN3_4B}


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_the_published_model(name):
    family, parts = FAMILIES[name], parts_of(FAMILIES[name])
    assert all(weight.is_meta or weight.numel() < 100 for part in parts.values() for weight in part.values())
    whole = parts["CheckpointLoaderSimple"]
    for state, prefix in ((whole, detection.unet_prefix_from_state_dict(whole)), (parts["UNETLoader"], "")):
        assert type(detection.model_config_from_unet(state, prefix)).__name__ == family.network
        found = detection.detect_unet_config(state, prefix)
        assert {key: value for key, value in found.items() if key in family.arguments} == {
            key: value for key, value in family.arguments.items() if key in found}  # fmt: skip
    for loader, gigabytes in PUBLISHED[name].items():
        assert size_of(parts[loader]) / 1e9 == pytest.approx(gigabytes, rel=0.003, abs=0.005)
    if name in ENCODERS:
        assert detect_te_model(parts["CLIPLoader"]) is ENCODERS[name]
    scaled = [key for key in whole if key.endswith("scale_weight")]
    assert bool(scaled) == (name in ("own_sd35", "own_qwen"))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_template_asks_for_a_family_and_is_made_small_without_touching_its_recommended_numbers(name):
    graph = smallest(name)
    kinds = [node["class_type"] for node in graph.values()]
    assert "PTGoal" not in kinds
    assert set(kinds) & set(FOLDERS) in ({"CheckpointLoaderSimple"}, set(FOLDERS) - {"CheckpointLoaderSimple"})
    (create,) = [node for node in graph.values() if node["class_type"] == "PTCreatePolicy"]
    assert create["inputs"]["rank"] == -1 and create["inputs"]["layers"] == "attention and feed-forward"


def test_what_is_written_is_read_again_with_numbers_that_neither_grow_nor_vanish(tmp_path):
    state = {"a.weight": torch.empty(3000, 2000, device="meta"), "norm.weight": torch.empty(40, device="meta"), "norm.bias": torch.empty(40),
             "b.weight": torch.empty(64, 64, dtype=EIGHT), "b.scale_weight": torch.empty(()), "scaled_fp8": torch.empty(0, dtype=EIGHT),
             "ids": torch.empty(1, 77, dtype=torch.int64), "half": torch.empty(5, 7, 3, 3, dtype=torch.bfloat16)}  # fmt: skip
    write(tmp_path / "x.safetensors", state)
    found = load_file(tmp_path / "x.safetensors")
    assert {name: (weight.shape, weight.dtype) for name, weight in found.items()} == {
        name: (weight.shape, weight.dtype) for name, weight in state.items()}  # fmt: skip
    assert found["ids"].tolist() == [list(range(77))] and found["b.scale_weight"] == 1
    for name in ("a.weight", "b.weight", "half"):
        assert found[name].float().std() * found[name][0].numel() ** 0.5 == pytest.approx(1, abs=0.15)
    answer = torch.randn(4, 2000) @ found["a.weight"].T
    assert answer.std() == pytest.approx(1, abs=0.05)
    assert found["norm.weight"].mean() == pytest.approx(1, abs=0.1) and abs(found["norm.bias"].mean()) < 0.1


def test_what_does_not_fit_is_said_with_its_numbers_and_before_anything_is_written(monkeypatch, capsys):
    assert too_large(2.1, 1.7, 20, 50) == ""
    assert too_large(17.2, 11.9, 12, 50) == "it needs about 41 GB of memory, and may take 12.0"
    assert too_large(17.2, 11.9, 60, 10) == "its files and what is trained need 26 GB of the disk, of which 10.0 are free"
    monkeypatch.setattr(real_size, "folder", lambda: pytest.fail("it must not be begun"))
    assert real_size.main(["own_qwen", "own_sd15", "--at-most", "4"]) == 0
    said = capsys.readouterr().out
    assert "own_qwen     Qwen-Image, fp8  files  29.0 GB   not run: it needs about 67 GB of memory, and may take 4.0" in said
    assert "own_sd15     SD1.5            files   2.1 GB   not run: it needs about 10 GB" in said


def test_an_unknown_template_is_named(capsys):
    with pytest.raises(SystemExit):
        real_size.main(["own_sd2"])
    assert "there is no template own_sd2; there are own_sd15," in capsys.readouterr().err


def test_the_files_names_and_shapes_are_the_hosts_own():
    """A module that the host changes changes the file."""
    changed = replace(FAMILIES["own_sdxl"], arguments={**NETWORKS["SDXL"], "context_dim": 1024})
    key = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    assert parts_of(changed)["CheckpointLoaderSimple"][key].shape == (640, 1024)
