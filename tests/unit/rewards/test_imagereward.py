"""ImageReward's mapping against a BLIP written again here, in the layout of the published checkpoint."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from posttrain.rewards import holder as holders
from posttrain.rewards import imagereward as ir
from posttrain.rewards.base import Prompt, score
from posttrain.rewards.checkpoints import folded_linear
from posttrain.rewards.preprocess import Geometry, preprocess

from .golden_heads import generated_head
from .networks import picture, randomised

GOLDEN = Path(__file__).parents[2] / "golden"
WIDTH, TEXT, HEADS = 128, 64, 1
WORDS = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1037: "a", 6302: "photo", 1997: "of",
         4937: "cat", 3899: "dog"}


class Block(nn.Module):
    """A pre-norm transformer block of the image encoder."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, 1e-6), nn.LayerNorm(WIDTH, 1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, 200), "fc2": nn.Linear(200, WIDTH)})

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.attn["qkv"](self.norm1(x)).view(b, n, 3, 2, 64).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.mT) / 8).softmax(-1) @ v
        x = x + self.attn["proj"](mixed.transpose(1, 2).reshape(b, n, WIDTH))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Vision(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, WIDTH)), nn.Parameter(torch.zeros(1, 17, WIDTH))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, WIDTH, 16, 16)})
        self.blocks, self.norm = nn.ModuleList([Block(), Block()]), nn.LayerNorm(WIDTH, 1e-6)

    def forward(self, x):
        x = self.patch_embed["proj"](x).flatten(2).mT
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def attention(keys: int) -> nn.ModuleDict:
    return nn.ModuleDict({
        "self": nn.ModuleDict({"query": nn.Linear(TEXT, TEXT), "key": nn.Linear(keys, TEXT), "value": nn.Linear(keys, TEXT)}),
        "output": nn.ModuleDict({"dense": nn.Linear(TEXT, TEXT), "LayerNorm": nn.LayerNorm(TEXT, 1e-12)})})


def attend(part, x, seen, mask):
    q, k, v = part["self"]["query"](x), part["self"]["key"](seen), part["self"]["value"](seen)
    weights = (q @ k.mT / 8).masked_fill(~mask[:, None], -torch.inf).softmax(-1)
    return part["output"]["LayerNorm"](part["output"]["dense"](weights @ v) + x)


class Text(nn.Module):
    """Post-norm BERT whose layers attend to the words (both ways), then to the image."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.ModuleDict({"word_embeddings": nn.Embedding(30524, TEXT), "LayerNorm": nn.LayerNorm(TEXT, 1e-12),
                                         "position_embeddings": nn.Embedding(512, TEXT)})
        layer = [nn.ModuleDict({"attention": attention(TEXT), "crossattention": attention(WIDTH),
                                "intermediate": nn.ModuleDict({"dense": nn.Linear(TEXT, 96)}),
                                "output": nn.ModuleDict({"dense": nn.Linear(96, TEXT), "LayerNorm": nn.LayerNorm(TEXT, 1e-12)})})
                 for _ in range(2)]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layer)})

    def forward(self, ids, mask, seen):
        e = self.embeddings
        x = e["LayerNorm"](e["word_embeddings"](ids) + e["position_embeddings"](torch.arange(ids.shape[1])))
        for layer in self.encoder["layer"]:
            x = attend(layer["attention"], x, x, mask.bool())
            x = attend(layer["crossattention"], x, seen, torch.ones(seen.shape[:2], dtype=torch.bool))
            x = layer["output"]["LayerNorm"](layer["output"]["dense"](F.gelu(layer["intermediate"]["dense"](x))) + x)
        return x


class Reference(nn.Module):
    def __init__(self):
        super().__init__()
        self.blip = nn.ModuleDict({"visual_encoder": Vision(), "text_encoder": Text()})
        sizes = [TEXT, 48, 32, 1]
        self.mlp = nn.ModuleDict({"layers": nn.Sequential(nn.Linear(sizes[0], sizes[1]), nn.Dropout(),
                                                          nn.Linear(sizes[1], sizes[2]), nn.Linear(sizes[2], 1))})

    def forward(self, pixels, ids, mask):
        first = self.blip["text_encoder"](ids, mask, self.blip["visual_encoder"](pixels))[:, 0]
        return (self.mlp["layers"](first)[:, 0] - 0.16717362830052426) / 1.0333394966054072


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint in the published layout (with the extras it has), a vocabulary, and the reference."""
    folder = tmp_path_factory.mktemp("imagereward")
    reference = randomised(Reference())
    weights = reference.state_dict() | {"blip.text_encoder.embeddings.position_ids": torch.arange(512)[None],
                                        "blip.vision_proj.weight": torch.ones(2, 2), "blip.text_proj.bias": torch.ones(2)}
    torch.save(weights, folder / "ImageReward.pt")
    tokenizer = folder / "bert-base-uncased"
    tokenizer.mkdir()
    (tokenizer / "vocab.txt").write_text("\n".join(WORDS.get(i, f"[unused{i}]") for i in range(30522)), "utf-8")
    return folder / "ImageReward.pt", tokenizer, reference


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


def test_golden_head():
    gold = load_file(GOLDEN / "07d_reward_heads.safetensors")
    weight, bias = folded_linear(generated_head(int(gold["const.imagereward_weight_seed"])))
    features = gold["imagereward.in.features"]
    assert torch.allclose(F.linear(features, weight, bias), gold["imagereward.out.mlp_raw"], atol=1e-5)
    reward = ir.image_reward(features, weight, bias)
    assert torch.allclose(reward[:, None], gold["imagereward.out.reward"], atol=1e-5)
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
