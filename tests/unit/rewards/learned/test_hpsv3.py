"""HPSv3's mapping on random weights in the published layout, against the stock language model class and the head as
the authors lay it out; the image patches against patches cut by hand."""
from __future__ import annotations

import pytest
import torch
from posttrain.rewards.base.report import describe, table
from posttrain.rewards.base.reward import Prompt, score
from posttrain.rewards.composite.ensemble import Ensemble, Member
from posttrain.rewards.learned import holder as holders
from posttrain.rewards.learned import hpsv3, qwen_vl
from posttrain.rewards.learned.qwen_vl import Vision, patches, smart_size
from posttrain.rewards.rules.colour import ColourReward
from safetensors.torch import save_file
from torch import nn

from ..networks import picture
from ..qwen import qwen_folder

INSTRUCTION = "rate a photo of {text_prompt} . <|Reward|> ?"


def published_names(weights):
    """Today's names -> those of the published file (transformers 4.45)."""
    renamed = {}
    for name, value in weights.items():
        name = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
        renamed[name] = value.contiguous().clone()
    return renamed


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hpsv3") / "HPSv3"
    network = qwen_folder(folder)
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.05), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2)).eval()
    token = network.config.get_text_config().vocab_size
    network.resize_token_embeddings(token + 1)  # the reward token, as in training
    weights = published_names(network.state_dict()) | {f"rm_head.{k}": v for k, v in head.state_dict().items()}
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "HPSv3.safetensors")
    (folder / "instruction.txt").write_text(INSTRUCTION)
    return folder, network.eval(), head, token


def reward_of(folder, **settings):
    return hpsv3.HPSv3Reward(holders.Holder(lambda: hpsv3.build_hpsv3(folder), "fp32"), folder, **settings)


@pytest.fixture(autouse=True)
def small_images(monkeypatch):
    monkeypatch.setattr(hpsv3, "PIXELS", 16 * 28 * 28)  # 16 image tokens instead of 256


def test_equals_the_stock_class_with_the_published_head(model):
    folder, network, head, token = model
    images, texts = torch.cat([picture(112, 112, i) for i in range(2)]), ["a cat", "two dog dog ?"]
    mean, deviation = reward_of(folder).rate(images, [Prompt(t) for t in texts])
    tokenizer = qwen_vl.load_tokenizer(folder)
    image = network.config.image_token_id
    for i, text in enumerate(texts):
        before, after = INSTRUCTION.replace("{text_prompt}", text).split("<|Reward|>")
        words = tokenizer("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>")
        ids = words["input_ids"] + [image] * 16 + tokenizer("<|vision_end|>" + before)["input_ids"] + [token]
        ids = torch.tensor([ids + tokenizer(after + "<|im_end|>\n<|im_start|>assistant\n")["input_ids"]])
        pixels, grid = patches(images[i:i + 1], Vision(14, 2, qwen_vl.CLIP_MEAN, qwen_vl.CLIP_STD), 16 * 28 * 28)
        with torch.no_grad():
            out = network(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=pixels, image_grid_thw=grid,
                          mm_token_type_ids=(ids == image).int(), output_hidden_states=True)
            expected = head(out.hidden_states[-1][ids == token])[0]
        assert torch.allclose(torch.stack([mean[i], deviation[i].log()]), expected, atol=1e-5)


def test_caution_takes_the_uncertainty_off(model):
    images, prompts = picture(112, 112), [Prompt("a cat")]
    mean, deviation = reward_of(model[0]).rate(images, prompts)
    assert torch.allclose(reward_of(model[0], caution=2.0)(images, prompts), mean - 2 * deviation)
    assert torch.equal(reward_of(model[0])(images, prompts), mean) and deviation > 0


def test_the_uncertainty_is_shown_beside_the_score_alone_and_in_an_ensemble(model):
    images, prompts = torch.cat([picture(112, 112, i) for i in range(3)]), [Prompt("a cat")] * 3
    reward = reward_of(model[0], caution=1.0, batch_size=2)
    mean, deviation = (v.double() for v in reward.rate(images, prompts))
    alone = score(reward, images, prompts, [0] * 3)
    assert torch.allclose(alone.values, mean - deviation) and torch.equal(alone.members["HPSv3"], alone.values)
    assert torch.equal(alone.members["uncertainty"], deviation) and len(set(deviation.tolist())) == 3
    assert table(alone, prompts).splitlines()[0].split("\t") == ["image", "score", "HPSv3", "uncertainty", "prompt"]
    assert "less 1 x its uncertainty" in describe(reward.info)
    mixed = score(Ensemble((reward, Member(ColourReward("brightness"), "monitor"))), images, prompts, [0] * 3)
    assert list(mixed.members) == ["HPSv3", "HPSv3 / uncertainty", "brightness"]
    assert torch.equal(mixed.members["HPSv3 / uncertainty"], deviation) and "uncertainty" not in str(list(mixed.normalised))


def test_caution_reaches_the_gradient(model):
    """What is trained on is mean - k * deviation, not the mean with the rest shown."""
    found = []
    for k in (0.0, 2.0):
        x = (picture(112, 112) * 0.6 + 0.2).requires_grad_()
        reward_of(model[0], caution=k).evaluate(x, [Prompt("a cat")], torch.tensor([0])).values.sum().backward()
        found.append(x.grad)
    assert not torch.allclose(*found, rtol=0.01)


def test_pixel_gradient_equals_finite_differences(model):
    reward, image = reward_of(model[0]), picture(112, 112) * 0.6 + 0.2
    x = image.clone().requires_grad_()
    reward(x, [Prompt("a cat")]).sum().backward()
    direction = x.grad / x.grad.norm()
    numeric = (reward(image + 0.002 * direction, [Prompt("a cat")]) - reward(image - 0.002 * direction, [Prompt("a cat")])) / 0.004
    assert torch.allclose(x.grad.norm(), numeric[0], rtol=0.03)


def test_patches_are_cut_in_blocks_of_merged_tokens():
    image = picture(56, 112)
    found, grid = patches(image, Vision(14, 2, (0.0,) * 3, (1.0,) * 3), 56 * 112)
    assert grid.tolist() == [[1, 4, 8]] and found.shape == (32, 3 * 2 * 14 * 14)
    order = [(2 * by + y, 2 * bx + x) for by in range(2) for bx in range(4) for y in range(2) for x in range(2)]
    for row, (y, x) in zip(found, order):
        patch = image[0, 14 * y:14 * y + 14, 14 * x:14 * x + 14].permute(2, 0, 1)
        assert torch.equal(row, torch.stack([patch, patch], 1).flatten())


@pytest.mark.parametrize("size, expected", [
    ((512, 512), (448, 448)), ((448, 448), (448, 448)), ((256, 256), (448, 448)), ((1024, 512), (616, 308)), ((1, 1), (448, 448)),
    ((4320, 7680), (336, 588)),
])
def test_image_sizes_of_the_published_preprocessing(size, expected):
    assert smart_size(*size, 28, 256 * 28 * 28) == expected


def test_extremely_long_images_stay_small():
    high, wide = smart_size(1, 8000, 28, 256 * 28 * 28)
    assert high == 28 and wide % 28 == 0 and high * wide <= 2 * 256 * 28 * 28


def test_what_is_missing_is_named(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="HPSv3.safetensors is missing"):
        hpsv3.build_hpsv3(tmp_path)
    with pytest.raises(FileNotFoundError, match="instruction.txt is missing"):
        hpsv3.read_instruction(tmp_path)
    (tmp_path / "instruction.txt").write_text("rate it")
    with pytest.raises(FileNotFoundError, match="lacks {text_prompt}"):
        hpsv3.read_instruction(tmp_path)
    save_file({"x": torch.ones(1)}, tmp_path / "HPSv3.safetensors")
    with pytest.raises(ValueError, match="no weights rm_head"):
        hpsv3.build_hpsv3(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(ValueError, match="is a 'llava' model"):
        qwen_vl.read_vision(tmp_path)
