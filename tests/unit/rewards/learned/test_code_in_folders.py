"""Model folders that carry code: a pickle that runs something, a config that names a module. Nothing of it may run."""
from __future__ import annotations

import contextlib
import json
import shutil

import pytest
import torch
from posttrain.rewards.learned import hpsv3, qwen_vl
from posttrain.rewards.learned.classifier import build_classifier
from posttrain.rewards.rules.detectors import build_detr

from ..qwen import qwen_folder
from ..rules.test_detectors import yolos
from .test_checkpoints import Bomb
from .test_classifier import folder as classifier_folder  # noqa: F401 (a fixture)
from .test_hpsv3 import model as hpsv3_model  # noqa: F401 (a fixture)

MODULE = "from pathlib import Path\nPath({proof!r}).mkdir()\n\n\nclass Sneaky:\n    pass\n"


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_with_code_in_a_folder(tmp_path, classifier_folder, legacy):  # noqa: F811
    path, network = classifier_folder
    (path / "model.safetensors").unlink()
    proof = tmp_path / "executed"
    torch.save({**network.state_dict(), "extra": Bomb(proof)}, path / "pytorch_model.bin",
               _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="could not be loaded as an image classifier"):
        build_classifier(path)
    assert not proof.exists()


def test_plain_weights_in_a_pickle_load(classifier_folder):  # noqa: F811
    path, network = classifier_folder
    (path / "model.safetensors").unlink()
    torch.save(network.state_dict(), path / "pytorch_model.bin")
    assert torch.equal(build_classifier(path).classifier.weight, network.classifier.weight)


def sneak(folder, tmp_path, file: str, **classes: str):
    """Lets a config name classes of a module that leaves a folder behind when it is run."""
    proof = tmp_path / "executed"
    (folder / "sneaky.py").write_text(MODULE.format(proof=str(proof)))
    config = json.loads((folder / file).read_text()) if (folder / file).is_file() else {}
    config["auto_map"] = {name: f"sneaky.{kind}" for name, kind in classes.items()}
    if "AutoTokenizer" in classes:
        config["auto_map"]["AutoTokenizer"] = ["sneaky.Sneaky", None]
        config["tokenizer_class"] = "Sneaky"
    elif "model_type" in config:
        config["model_type"] = "sneaky"  # a type that transformers does not know: it would have to ask the module
    (folder / file).write_text(json.dumps(config))
    return proof


def test_the_module_would_have_left_its_trace(tmp_path):
    exec(MODULE.format(proof=str(tmp_path / "executed")))  # noqa: S102
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("build", [build_classifier, build_detr])
def test_a_config_that_names_a_module(tmp_path, classifier_folder, build):  # noqa: F811
    folder = classifier_folder[0] if build is build_classifier else yolos(tmp_path)[0]
    proof = sneak(folder, tmp_path, "config.json", AutoConfig="Sneaky", AutoModelForImageClassification="Sneaky",
                  AutoModelForObjectDetection="Sneaky")
    with pytest.raises(ValueError, match="could not be loaded"):
        build(folder)
    assert not proof.exists()


@pytest.fixture
def agreeing(monkeypatch):
    """Whoever asks whether the code may run is told yes, as transformers does on a console."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")


def test_a_tokenizer_that_names_a_module(tmp_path, agreeing):
    folder = tmp_path / "qwen2_vl"
    qwen_folder(folder)
    proof = sneak(folder, tmp_path, "tokenizer_config.json", AutoTokenizer="Sneaky")
    with contextlib.suppress(ValueError):  # some releases of transformers read tokenizer.json all the same
        qwen_vl.load_tokenizer(folder)
    assert not proof.exists()


def test_hpsv3_with_a_config_that_names_a_module(tmp_path, hpsv3_model, agreeing):  # noqa: F811
    shutil.copytree(hpsv3_model[0], tmp_path / "HPSv3")
    proof = sneak(tmp_path / "HPSv3", tmp_path, "config.json", AutoConfig="Sneaky")
    with pytest.raises(ValueError):
        hpsv3.build_hpsv3(tmp_path / "HPSv3")
    assert not proof.exists()
