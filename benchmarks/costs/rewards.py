"""Scoring against the bare network on the same batch, and how near the differentiable resize is to Pillow's."""
from __future__ import annotations

import torch

from tools import pack

from . import Measure
from ._world import compare

BATCH, SIDE = 8, 512
SIZES = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)  # ViT-B/16
WORDS = dict(hidden_size=512, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=8)


def network() -> torch.nn.Module:
    """CLIP ViT-B/16 with random weights: the smallest CLIP that people score with, so the overhead shows most."""
    from transformers import CLIPConfig, CLIPModel

    return CLIPModel(CLIPConfig(
        projection_dim=512, vision_config=dict(**SIZES, image_size=224, patch_size=16, hidden_act="quick_gelu"),
        text_config=dict(**WORDS, vocab_size=49408, max_position_embeddings=77, eos_token_id=49407, pad_token_id=0),
    )).eval().requires_grad_(False)


def measure() -> list[Measure]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    holders = pack.module("rewards.learned.holder", host=True)
    base, clip, preparing = (pack.module(f"rewards.{name}") for name in ("base.reward", "learned.clip", "learned.preprocess"))
    bare = network()
    reward = pack.module("rewards.learned.clip_rewards").ClipReward(
        "PickScore", holders.Holder(lambda: bare, "fp32"), holders.clip_tokenizer_folder(), BATCH)
    images, prompts = torch.rand(BATCH, SIDE, SIDE, 3), [base.Prompt("a photo of a red fox")] * BATCH
    pixels = preparing.preprocess(images, preparing.Geometry(224))
    ids, _ = clip.tokenize(clip.load_tokenizer(holders.clip_tokenizer_folder()), [prompts[0].text], 77)

    @torch.no_grad()
    def plain() -> None:
        bare.get_image_features(pixel_values=pixels), bare.get_text_features(input_ids=ids)

    ratio, ours, least = compare(lambda: base.score(reward, images, prompts, [0] * BATCH), plain, 4)
    mean, worst = distance_to_pillow(preparing)
    return [Measure("scoring against the bare network", ratio, "x", 1.10,
                    f"CLIP ViT-B/16, {BATCH} images of {SIDE} pixels, from IMAGE to scores: {ours:.2f} s against {least:.2f} s"),
            Measure("resize against Pillow, mean", mean, "8-bit steps", 0.4, "1024 to 224 pixels, Pillow's rounding included"),
            Measure("resize against Pillow, worst", worst, "8-bit steps", 9.0, "the same")]


def distance_to_pillow(preparing) -> tuple[float, float]:
    import numpy
    from PIL import Image

    image = torch.nn.functional.interpolate(torch.rand(1, 3, 256, 256), (1024, 1024), mode="bicubic").clamp(0, 1)
    image = (image * 255).round().movedim(1, -1)
    small = Image.fromarray(image[0].byte().numpy()).resize((224, 224), Image.Resampling.BICUBIC)
    theirs = torch.from_numpy(numpy.asarray(small).copy()).movedim(-1, 0).float()
    ours = preparing.preprocess(image / 255, preparing.Geometry(224, "squash", (0.0,) * 3, (1.0,) * 3))[0] * 255
    gap = (ours - theirs).abs()
    return gap.mean().item(), gap.max().item()
