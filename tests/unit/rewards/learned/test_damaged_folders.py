"""Model folders with a settings file or a tokenizer that was cut off, is missing, or belongs to another model."""
from __future__ import annotations

import json
import shutil

import pytest
from posttrain.rewards.learned import holder as holders
from posttrain.rewards.learned import hpsv3, imagereward, qwen_vl
from posttrain.rewards.learned.classifier import read_geometry, read_labels
from posttrain.rewards.learned.files import read_json
from posttrain.rewards.rules.detectors import DetrDetector, OwlDetector, image_settings
from posttrain.rewards.vlm import local
from posttrain.rewards.vlm.judge import Question
from safetensors.torch import load_file, save_file

from ..networks import picture
from ..qwen import qwen_folder
from .test_hpsv3 import model as hpsv3_model  # noqa: F401 (a fixture)


@pytest.mark.parametrize("text, message", [('{"id2label": {"0": "ca', "is damaged or incomplete.*Download it again"),
                                           ("[1, 2]", "is not a model's settings"), ("", "is damaged or incomplete")])
def test_damaged_settings_name_their_file(tmp_path, text, message):
    assert read_json(tmp_path / "config.json") == {}
    for name, readers in (("config.json", (read_labels, qwen_vl.read_vision, lambda f: DetrDetector(None, f),
                                           lambda f: OwlDetector(None, f, f))),
                          ("preprocessor_config.json", (read_geometry, image_settings))):
        (tmp_path / name).write_text(text)
        for read in readers:
            with pytest.raises(ValueError, match=f"{name} {message}"):
                read(tmp_path)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("damage", ["cut off", "missing"])
def test_damaged_tokenizers_say_which_files_they_need(tmp_path, damage):
    folder = tmp_path / "qwen"
    qwen_folder(folder)
    file = folder / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:200]) if damage == "cut off" else file.unlink()
    with pytest.raises(ValueError, match="(?s)tokenizer in .*tokenizer.json and tokenizer_config.json"):
        qwen_vl.load_tokenizer(folder)
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    if damage == "cut off":
        (tmp_path / "bert" / "vocab.txt").write_text("[PAD]\n[UN")
    with pytest.raises(ValueError, match="(?s)tokenizer in .*vocab.txt"):
        imagereward.load_bert_tokenizer(tmp_path / "bert")


def test_a_folder_of_another_family_is_named_before_its_tokenizer_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    judge = local.LocalModel(holders.Holder(lambda: local.build_judge(tmp_path), "fp32"), tmp_path)
    with pytest.raises(ValueError, match="is a 'vit' model.*OpenAI-compatible server"):
        judge([Question((picture(8, 8),), "?", ("yes", "no"))])


@pytest.mark.parametrize("damage", ["config cut off", "other sizes", "layers missing", "weights cut off"])
def test_hpsv3_that_does_not_fit(tmp_path, hpsv3_model, damage):  # noqa: F811
    folder = tmp_path / "HPSv3"
    shutil.copytree(hpsv3_model[0], folder)
    weights, config = folder / "HPSv3.safetensors", folder / "config.json"
    if damage == "config cut off":
        config.write_text(config.read_text()[:100])
    elif damage == "other sizes":
        config.write_text(config.read_text().replace('"intermediate_size": 96', '"intermediate_size": 48'))
    elif damage == "weights cut off":
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        save_file({k: v for k, v in load_file(weights).items() if "layers.1" not in k and "embed_tokens" not in k}, weights)
    with pytest.raises(ValueError, match="HPSv3.safetensors"):
        hpsv3.build_hpsv3(folder)
