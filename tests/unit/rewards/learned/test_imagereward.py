"""ImageReward's mapping against the networks of the authors' own package, in the layout of the published checkpoint."""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from posttrain.rewards.base.reward import Prompt, score
from posttrain.rewards.learned import holder as holders
from posttrain.rewards.learned import imagereward as ir
from posttrain.rewards.learned.checkpoints import folded_linear
from posttrain.rewards.learned.preprocess import Geometry, preprocess

from ..blip_reference import reference
from ..golden_heads import generated_head
from ..networks import picture, randomised

WIDTH, TEXT = 128, 64
WORDS = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1037: "a", 6302: "photo", 1997: "of",
         4937: "cat", 3899: "dog"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint in the published layout (with the extras it has), a vocabulary, and the reference."""
    folder = tmp_path_factory.mktemp("imagereward")
    network = randomised(reference(WIDTH, TEXT, 64))
    weights = network.state_dict() | {"blip.text_encoder.embeddings.position_ids": torch.arange(512)[None],
                                        "blip.vision_proj.weight": torch.ones(2, 2), "blip.text_proj.bias": torch.ones(2)}
    torch.save(weights, folder / "ImageReward.pt")
    tokenizer = folder / "bert-base-uncased"
    tokenizer.mkdir()
    (tokenizer / "vocab.txt").write_text("\n".join(WORDS.get(i, f"[unused{i}]") for i in range(30522)), "utf-8")
    return folder / "ImageReward.pt", tokenizer, network


def reward_of(files, precision="fp32") -> ir.ImageReward:
    return ir.ImageReward(holders.Holder(lambda: ir.build_blip(files[0]), precision), files[1], batch_size=2)


def test_equals_the_reference_and_reads_image_and_prompt(files):
    images = torch.cat([picture(100, 64, i) for i in range(3)])
    texts = ["a photo of a cat", "a dog", "dog dog dog of a photo"]
    ids = torch.zeros(3, 35, dtype=torch.int64)
    back = {w: i for i, w in WORDS.items()}
    for row, text in zip(ids, texts):
        words = ["[CLS]", *text.split(), "[SEP]"]
        row[:len(words)] = torch.tensor([back[w] for w in words])
    with torch.no_grad():
        expected = files[2](preprocess(images, Geometry(64)), ids, ids != 0)
    found = reward_of(files)(images, [Prompt(t) for t in texts])
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, reward_of(files)(images, [Prompt("a dog")] * 3), atol=1e-5)
    assert not torch.allclose(found, reward_of(files)(images.flip(0), [Prompt(t) for t in texts]), atol=1e-5)


def test_golden_head(golden, close):
    gold = golden("07d")
    weight, bias = folded_linear(generated_head(int(gold["const.imagereward_weight_seed"])))
    features = gold["imagereward.in.features"]
    # 768 products that nearly cancel: the golden numbers themselves are 1.2e-5 off the exact ones, of a largest 32
    close(F.linear(features, weight, bias), gold["imagereward.out.mlp_raw"], 1e-6)
    reward = ir.image_reward(features, weight, bias)
    close(reward[:, None], gold["imagereward.out.reward"], 1e-6)
    close(reward.double(), gold["imagereward.out.rank_rewards"], 1e-6)
    torch.testing.assert_close(reward * gold["const.imagereward_std"] + gold["const.imagereward_mean"],
                               F.linear(features, weight, bias)[:, 0].double(), check_dtype=False)
    assert (reward.argsort(descending=True).argsort() + 1).tolist() == gold["imagereward.out.rank"].tolist()


def test_pixel_gradient(files):
    reward, image = reward_of(files), picture(70, 70) * 0.6 + 0.2
    x = image.clone().requires_grad_()
    reward(x, [Prompt("a cat")]).sum().backward()
    direction = x.grad / x.grad.norm()
    numeric = (reward(image + 0.05 * direction, [Prompt("a cat")]) - reward(image - 0.05 * direction, [Prompt("a cat")])) / 0.1
    assert torch.allclose(x.grad.norm(), numeric[0], rtol=0.02)


def test_half_precision(files):
    image = picture(70, 70)
    full, half = (reward_of(files, p)(image, [Prompt("a cat")]) for p in ("fp32", "fp16"))
    assert half.dtype == torch.float32 and torch.allclose(full, half, atol=0.05)


def test_35_tokens(files):
    long = "cat " * 60
    scores = score(reward_of(files), picture(64, 64).expand(2, -1, -1, -1), [Prompt(long), Prompt("cat " * 33)], [0, 1])
    assert scores.stats["prompts_cut"] == 1 and scores.values[0] == scores.values[1]


def test_wrong_vocabulary_and_wrong_file(files, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat"]))
    with pytest.raises(ValueError, match="not bert-base-uncased"):
        ir.load_bert_tokenizer(tmp_path)
    torch.save({"mlp.layers.0.weight": torch.ones(1, 2)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="not ImageReward's checkpoint"):
        ir.build_blip(tmp_path / "x.pt")
