"""Aesthetic heads and towers: golden 07d, open_clip, a SigLIP pooling head written again, wrong files."""
from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from posttrain.rewards.base.reward import Prompt
from posttrain.rewards.learned import aesthetic, tower
from posttrain.rewards.learned import holder as holders
from posttrain.rewards.learned.checkpoints import folded_linear
from posttrain.rewards.learned.clip import transformers_names
from posttrain.rewards.learned.preprocess import HALF, Geometry, preprocess
from safetensors.torch import save_file
from torch import nn

from ..golden_heads import generated_head
from ..networks import picture, randomised, tiny_open_clip

IMAGES = torch.cat([picture(90, 64, i) for i in range(3)])
NO_PROMPTS = [Prompt("")] * 3


def test_golden_head(golden):
    gold = golden("07d")
    weight, bias = folded_linear(generated_head(int(gold["const.aesthetic_weight_seed"])))
    assert torch.allclose(aesthetic.aesthetic_score(gold["aesthetic.in.embed"], weight, bias),
                          gold["aesthetic.out.score"], atol=1e-5)


def head_file(tmp_path, width: int, prefix: str = "layers") -> tuple[Path, nn.Module]:
    """Five linear layers with dropout between, as published."""
    chain = nn.Sequential(nn.Linear(width, 32), nn.Dropout(0.2), nn.Linear(32, 16), nn.Dropout(0.2), nn.Linear(16, 8),
                          nn.Dropout(0.1), nn.Linear(8, 4), nn.Linear(4, 1)).eval()
    torch.save({f"{prefix}.{k}": v for k, v in chain.state_dict().items()}, tmp_path / "head.pth")
    return tmp_path / "head.pth", chain


@pytest.mark.parametrize("naming", ["open_clip", "transformers", "vision only"])
def test_laion_equals_open_clip_and_the_unfolded_head(tmp_path, naming):
    theirs = tiny_open_clip(quick_gelu=True)
    weights = theirs.state_dict() if naming == "open_clip" else transformers_names(theirs.state_dict())
    if naming == "vision only":
        weights = {k: v for k, v in weights.items() if k.startswith("vis")}
    save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / "clip.safetensors")
    file, chain = head_file(tmp_path, 48)
    holder = holders.Holder(lambda: tower.build_clip_tower(tmp_path / "clip.safetensors"), "fp32")
    reward = aesthetic.AestheticReward("LAION v2", holder, file, batch_size=2)
    with torch.no_grad():
        embedding = theirs.encode_image(preprocess(IMAGES, Geometry(56)), normalize=True)
        expected = chain(embedding)[:, 0]
    assert torch.allclose(reward(IMAGES, NO_PROMPTS), expected, atol=1e-5)
    x = IMAGES.clone().requires_grad_()
    reward(x, NO_PROMPTS).sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0


class Siglip(nn.Module):
    """SigLIP's vision tower in the published names, forward written from its description: no class token, pre-norm
    blocks, then a learned probe that attends to all patches, and an MLP with a residual."""

    WIDTH = 144

    def __init__(self):
        super().__init__()
        w = self.WIDTH

        def mlp():
            return nn.ModuleDict({"fc1": nn.Linear(w, 200), "fc2": nn.Linear(200, w)})

        attention = {f"{p}_proj": nn.Linear(w, w) for p in ("q", "k", "v", "out")}
        block = {"layer_norm1": nn.LayerNorm(w, 1e-6), "layer_norm2": nn.LayerNorm(w, 1e-6), "mlp": mlp(),
                 "self_attn": nn.ModuleDict(attention)}
        self.vision_model = nn.ModuleDict({
            "embeddings": nn.ModuleDict({"patch_embedding": nn.Conv2d(3, w, 14, 14), "position_embedding": nn.Embedding(16, w)}),
            "encoder": nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict(block)])}),
            "post_layernorm": nn.LayerNorm(w, 1e-6),
            "head": nn.ModuleDict({"attention": nn.MultiheadAttention(w, 2, batch_first=True), "mlp": mlp(),
                                   "layernorm": nn.LayerNorm(w, 1e-6)})})
        self.vision_model["head"].register_parameter("probe", nn.Parameter(torch.zeros(1, 1, w)))

    def forward(self, x):
        v = self.vision_model
        x = v["embeddings"]["patch_embedding"](x).flatten(2).mT + v["embeddings"]["position_embedding"].weight
        for block in v["encoder"]["layers"]:
            a, h = block["self_attn"], block["layer_norm1"](x)
            q, k, u = (a[f"{p}_proj"](h).unflatten(-1, (2, 72)).transpose(1, 2) for p in "qkv")
            x = x + a["out_proj"](((q @ k.mT / 72**0.5).softmax(-1) @ u).transpose(1, 2).flatten(2))
            x = x + self.mlp(block["mlp"], block["layer_norm2"](x))
        x, head = v["post_layernorm"](x), v["head"]
        pooled = head["attention"](head.probe.expand(len(x), -1, -1), x, x)[0]
        return (pooled + self.mlp(head["mlp"], head["layernorm"](pooled)))[:, 0]

    def mlp(self, part, x):
        return part["fc2"](F.gelu(part["fc1"](x), approximate="tanh"))


def test_v2_5_equals_the_reference_tower_and_the_unfolded_head(tmp_path):
    theirs = randomised(Siglip())
    extra = {"text_model.final_layer_norm.weight": torch.ones(3), "logit_scale": torch.ones(1)}
    save_file({k: v.contiguous() for k, v in (theirs.state_dict() | extra).items()}, tmp_path / "siglip.safetensors")
    file, chain = head_file(tmp_path, 144, "scoring_head")
    holder = holders.Holder(lambda: tower.build_siglip_tower(tmp_path / "siglip.safetensors"), "fp32")
    reward = aesthetic.AestheticReward("v2.5 (SigLIP)", holder, file)
    with torch.no_grad():
        expected = chain(F.normalize(theirs(preprocess(IMAGES, Geometry(56, "squash", HALF, HALF))), dim=-1))[:, 0]
    assert torch.allclose(reward(IMAGES, NO_PROMPTS), expected, atol=1e-5)


def test_siglip_file_without_pooling_head_is_explained(tmp_path):
    weights = {k: v.contiguous() for k, v in Siglip().state_dict().items() if ".head." not in k}
    save_file(weights, tmp_path / "siglip.safetensors")
    with pytest.raises(ValueError, match="pooling head"):
        tower.build_siglip_tower(tmp_path / "siglip.safetensors")


def test_wrong_tower_and_wrong_head_are_explained(tmp_path):
    save_file({k: v.contiguous() for k, v in tiny_open_clip().state_dict().items()}, tmp_path / "clip.safetensors")
    holder = holders.Holder(lambda: tower.build_clip_tower(tmp_path / "clip.safetensors"), "fp32")
    with pytest.raises(ValueError, match="embeddings of 99 numbers.*gives 48"):
        aesthetic.AestheticReward("LAION v1", holder, head_file(tmp_path, 99)[0])(IMAGES, NO_PROMPTS)
    save_file({"x.weight": torch.ones(3, 4), "x.bias": torch.ones(3)}, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="not an aesthetic head: it gives 3"):
        aesthetic.load_head(tmp_path / "bad.safetensors")
    save_file({"weight": torch.ones(1, 4)}, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="not an aesthetic head: 'bias' is missing"):
        aesthetic.load_head(tmp_path / "bad.safetensors")
    save_file({"logit_scale": torch.ones(1)}, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match="not a CLIP vision model"):
        tower.build_clip_tower(tmp_path / "bad.safetensors")


def test_v1_is_one_layer(tmp_path):
    save_file({"weight": torch.ones(1, 48), "bias": torch.tensor([5.0])}, tmp_path / "v1.safetensors")
    weight, bias = aesthetic.load_head(tmp_path / "v1.safetensors")
    assert weight.shape == (1, 48) and bias.item() == 5
