"""The watermark reward: its class is found by itself and its sign is right, in the layout of the published detector."""
from __future__ import annotations

import json

import pytest
import torch
from posttrain.nodes.rewards.learned import PTRewardWatermark
from posttrain.rewards.base.reward import Prompt
from posttrain.rewards.learned.preprocess import HALF, Geometry, preprocess
from posttrain.rewards.learned.watermark import FOLDER, marked_class

from ..networks import picture, randomised


@pytest.mark.parametrize("labels, expected", [
    (["No Watermark", "Watermark"], "Watermark"), (["watermark", "no-watermark"], "watermark"),
    (["clean", "watermarked"], "watermarked"), (["Watermarked", "not_watermarked"], "Watermarked"),
    (["unwatermarked", "has watermark", "logo"], "has watermark"), (["watermark-free", "visible_watermark"], "visible_watermark"),
])
def test_the_class_is_found_whatever_its_number_and_spelling(labels, expected):
    assert marked_class(labels) == expected


@pytest.mark.parametrize("labels", [["LABEL_0", "LABEL_1"], ["no watermark", "other"], ["light watermark", "heavy watermark"]])
def test_a_class_that_cannot_be_found_is_asked_for(labels):
    with pytest.raises(ValueError, match=f"It knows: {', '.join(labels)}. Use Image Classifier Reward"):
        marked_class(labels)


def published(models, labels):
    """A small random classifier of the published kind, and the network itself."""
    from transformers import SiglipConfig, SiglipForImageClassification

    part = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    config = SiglipConfig(vision_config=dict(**part, image_size=32, patch_size=8), text_config=part,
                          id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)})
    network, folder = randomised(SiglipForImageClassification(config)), models / "reward_models" / FOLDER.save_as
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": 32, "width": 32}}))
    return network


@pytest.mark.parametrize("labels", [("No Watermark", "Watermark"), ("Watermark", "No Watermark")])
def test_it_is_the_probability_of_a_clean_image_and_differentiable(models, labels):
    network = published(models, labels)
    reward, = PTRewardWatermark().run("auto", "fp32")
    assert (reward.info.name, reward.info.low, reward.info.high, reward.info.needs_prompt) == ("no watermark", 0, 1, False)
    images = torch.cat([picture(40, 40, i) for i in range(3)]).requires_grad_()
    values = reward(images, [Prompt("")] * 3)
    with torch.no_grad():
        logits = network(preprocess(images, Geometry(32, "squash", HALF, HALF, "bilinear"))).logits
    assert torch.allclose(values, logits.softmax(-1)[:, labels.index("No Watermark")], atol=1e-5)
    values.sum().backward()
    assert images.grad.abs().sum() > 0
