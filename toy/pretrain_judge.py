"""Makes the demo world's CLIP: ``python develop.py pretrain judge``.

Image and text tower learn together, as SigLIP's do (arXiv:2303.15343): each picture with each caption is one yes-or-no
question. The answer is not what the caption of the picture happened to be but what the exact verifier says, partial
credit included; a caption with a style before it also asks for the background's lightness.
"""
from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..rewards.base.reward import Prompt
from ..rewards.base.words import brief
from ..rewards.learned.clip import load_tokenizer, tokenize
from ..rewards.learned.holder import clip_tokenizer_folder
from ..rewards.learned.hub import pooled, transformers_class
from ..rewards.learned.preprocess import Geometry, preprocess
from . import models
from .judge import ACTIVATION, STYLES, demo_judge, packed, styled
from .pictures import wrong_pictures
from .verifier import find_balls, judge
from .world import SIZE, caption, render, split, wrong

SHAPE = {"hidden_act": ACTIVATION, "projection_dim": 64}
VISION = SHAPE | {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
                  "image_size": SIZE, "patch_size": 4}
TEXT = SHAPE | {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1,
                "max_position_embeddings": 16, "vocab_size": models.VOCABULARY, "bos_token_id": 49406, "eos_token_id": 49407,
                "pad_token_id": 0}
LIGHT = (0.32, 0.68)  # of the background, in the pictures to learn from
PAIRS = 720  # of a right and a wrong picture of one prompt, to test with


@dataclass(frozen=True)
class JudgePlan:
    """How the judge is trained. wrong_share: of pictures that show something else than a training prompt says;
    spoiled_share: of pictures that are two in one; noisy_share: of pictures with noise."""

    steps: int = 2500
    batch: int = 96
    pictures: int = 24_000
    rate: float = 1e-3
    wrong_share: float = 0.5
    spoiled_share: float = 0.2
    noisy_share: float = 0.4
    seed: int = 0
    warm_up: int = 100


@dataclass(frozen=True)
class Lesson:
    """images uint8 [N, H, W, 3]; answers [N, captions]: how well each fits, 0 to 1."""

    images: torch.Tensor
    answers: torch.Tensor
    __repr__ = brief


def captions() -> list[str]:
    """Every training prompt, plain and in each style."""
    plain = [caption(s) for s in split(held_out=False)]
    return [styled(style, text) for style in ("", *STYLES) for text in plain]


def make_lesson(plan: JudgePlan) -> Lesson:
    random = np.random.default_rng(plan.seed)
    specs, shares = split(held_out=False), random.random((3, plan.pictures))
    shown = [specs[i] for i in random.integers(len(specs), size=plan.pictures)]
    shown = [wrong(s, random) if share < plan.wrong_share else s for s, share in zip(shown, shares[0])]
    images = render(shown, plan.seed, LIGHT)
    blend = (shares[1] < plan.spoiled_share) * random.uniform(0, 0.5, plan.pictures)
    images += blend[:, None, None, None].astype(np.float32) * (images[random.permutation(plan.pictures)] - images)
    amount = (shares[2] < plan.noisy_share) * random.uniform(0, 0.1, plan.pictures)
    images += (amount[:, None, None, None] * random.standard_normal(images.shape)).astype(np.float32)
    images = torch.from_numpy((images.clip(0, 1) * 255).round().astype(np.uint8))
    return Lesson(images, answers(images.float() / 255, specs))


def answers(images: torch.Tensor, specs: list[dict]) -> torch.Tensor:
    """[N, captions]: half strict, half partial credit; times how far the background's lightness is as the style says."""
    found = find_balls(images)
    fits = torch.tensor([[sum(judge(f, s)) / 2 for s in specs] for f in found])
    light = images.mean(-1).flatten(1).median(1).values  # most of a picture is background
    bright = ((light - STYLES["dark"]) / (STYLES["bright"] - STYLES["dark"])).clamp(0, 1)[:, None]
    shares = {"bright": bright, "dark": 1 - bright}
    return torch.cat([fits, *(fits * shares[style] for style in STYLES)], 1)


def batches(lesson: Lesson, size: int, random: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless shuffled batches of images [B, H, W, 3] in 0 to 1 and their answers."""
    while True:
        for pick in torch.randperm(len(lesson.images), generator=random).split(size):
            yield lesson.images[pick].float() / 255, lesson.answers[pick]


def train_judge(plan: JudgePlan, out: Path) -> dict:
    """Trains a judge and writes it to ``out``. Returns the record of its making."""
    torch.manual_seed(plan.seed)
    random, began = torch.Generator().manual_seed(plan.seed), time.monotonic()
    network = transformers_class("CLIPModel")(transformers_class("CLIPConfig")(
        projection_dim=SHAPE["projection_dim"], vision_config=VISION, text_config=TEXT)).train()
    bias = torch.nn.Parameter(torch.tensor(-3.0))
    ids, cut = tokenize(load_tokenizer(clip_tokenizer_folder()), captions(), TEXT["max_position_embeddings"])
    assert not cut
    optimizer = torch.optim.AdamW([*network.parameters(), bias], weight_decay=0.0, betas=(0.9, 0.98))
    stream = batches(make_lesson(plan), plan.batch, random)
    recent = []
    for step in range(plan.steps):
        images, wanted = next(stream)
        optimizer.param_groups[0]["lr"] = plan.rate * min(1, (step + 1) / plan.warm_up) * (1 - step / plan.steps)
        pixels = preprocess(images, Geometry(SIZE, "crop"))
        image = F.normalize(pooled(network.get_image_features(pixel_values=pixels)), dim=-1)
        text = F.normalize(pooled(network.get_text_features(input_ids=ids)), dim=-1)
        logits = network.logit_scale.exp() * image @ text.T + bias
        loss = F.binary_cross_entropy_with_logits(logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        recent = [*recent[-99:], loss.item()]
        if step % 100 == 99:
            logging.warning("judge: step %d, loss %.4f, %.1f min", step + 1, sum(recent) / len(recent),
                            (time.monotonic() - began) / 60)
    record = asdict(plan) | {"minutes": round((time.monotonic() - began) / 60, 1)}
    return _written(out, packed(network.state_dict(), sorted(set(ids.flatten().tolist()))), record)


def _written(out: Path, weights: dict, record: dict) -> dict:
    """Writes the file, tests what is in it, and writes it again with the result in the record."""
    models.save(out, weights, record)
    record |= {name: right_of_pairs(out, held_out) for name, held_out in (("train", False), ("held_out", True))}
    models.save(out, weights, record)
    return record


@torch.no_grad()
def right_of_pairs(file: Path, held_out: bool) -> float:
    """The share of pairs, a right and a wrong picture of a prompt, in which the judge prefers the right one."""
    specs = split(held_out)
    specs = specs * (PAIRS // len(specs))
    prompts = [Prompt(caption(s), s) for s in specs]
    right, wrong_ones = render(specs, 7), wrong_pictures(specs, np.random.default_rng(8))
    reward = demo_judge(file)
    better, worse = (reward(torch.from_numpy(images), prompts) for images in (right, wrong_ones))
    return round(float((better > worse).float().mean()), 3)
