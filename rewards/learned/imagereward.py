"""ImageReward v1.0, arXiv:2304.05977: human preference of an image for its prompt, about -2.3..+2. Apache-2.0.

BLIP (ViT-L/16 at 224 pixels, BERT-base text encoder that attends to the image) with a linear head on the first token,
standardised with the published mean and deviation. The authors' package needs old libraries; here its weights are
mapped to transformers' BLIP classes. The text encoder reads 35 tokens, about 25 words.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base.half import through_half
from ..base.reward import Prompt, RewardInfo
from .checkpoints import fill, folded_linear, load_weights, renamed, with_prefix
from .clip import layers
from .files import Published
from .holder import Holder, in_batches
from .hub import load_words, transformers_class
from .preprocess import Geometry, preprocess
from .text_length import PromptLimit

MEAN, STD, TOKENS = 0.16717362830052426, 1.0333394966054072, 35
PROBE, PROBE_IDS = "a photo of a cat", [101, 1037, 6302, 1997, 1037, 4937, 102]  # bert-base-uncased
WEIGHTS = Published("ImageReward", ("*imagereward*.safetensors", "*imagereward.pt"), "ImageReward.pt",
                    "ImageReward.pt of THUDM/ImageReward", "1.8 GB", "Apache-2.0")
TOKENIZER = Published("ImageReward (tokenizer)", ("*bert-base-uncased*",), "bert-base-uncased",
                      "config.json and vocab.txt of google-bert/bert-base-uncased", "232 kB", "Apache-2.0", folder=True)
_VISION = {"cls_token": "embeddings.class_embedding", "pos_embed": "embeddings.position_embedding",
           "patch_embed.proj.": "embeddings.patch_embedding.", "blocks.": "encoder.layers.",
           ".attn.proj.": ".self_attn.projection.", ".attn.qkv.": ".self_attn.qkv.", ".norm1.": ".layer_norm1.",
           ".norm2.": ".layer_norm2."}


class Blip(nn.Module):
    """Image and prompt -> first token [B,D]. head: weight and bias of the linear head, kept out of the module so that
    they stay in float32. size: side of the image in pixels."""

    def __init__(self, vision: nn.Module, text: nn.Module, head: tuple[Tensor, Tensor], size: int):
        super().__init__()
        self.vision, self.text, self.head, self.size = vision, text, head, size

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        seen = self.vision(pixel_values=pixels).last_hidden_state
        return self.text(input_ids=ids, attention_mask=mask, encoder_hidden_states=seen,
                         encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
                         ).last_hidden_state[:, 0]


class ImageReward:
    """holder: of the Blip that build_blip makes. tokenizer: folder with bert-base-uncased's vocab.txt."""

    info = RewardInfo("ImageReward", None, None, True, True, "Human preference for the prompt; about -2.3..2.")

    def __init__(self, holder: Holder, tokenizer: Path, batch_size: int = 16):
        self._holder, self._tokenizer, self._batch_size = holder, tokenizer, batch_size
        self._limit = PromptLimit("ImageReward", TOKENS)

    def __call__(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        return in_batches(images, prompts, self._batch_size, self._score)

    def counts(self) -> dict[str, float]:
        return self._limit.counts()

    def networks(self) -> list[Holder]:
        return [self._holder]

    def _score(self, images: Tensor, prompts: Sequence[Prompt]) -> Tensor:
        ids, mask, cut = tokenize(load_bert_tokenizer(self._tokenizer), [p.text for p in prompts])
        self._limit.note(cut)
        with self._holder.use() as (blip, device, dtype):
            pixels = preprocess(images.to(device), Geometry(blip.size))
            first = through_half(lambda p: blip(p, ids.to(device), mask.to(device)), pixels, dtype)
            return image_reward(first, *(t.to(device) for t in blip.head))


def image_reward(first: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """First token [B,D], folded head weight [1,D] and bias [1] -> reward [B] in standard deviations."""
    return (F.linear(first.float(), weight, bias).squeeze(-1) - MEAN) / STD


def build_blip(path: Path) -> Blip:
    """The frozen network of the published checkpoint."""
    weights = load_weights(path)
    vision = {("post_layernorm." + k[5:] if k.startswith("norm.") else k): v
              for k, v in with_prefix(weights, "blip.visual_encoder.").items()}
    text = {k: v for k, v in with_prefix(weights, "blip.text_encoder.").items() if not k.endswith("position_ids")}
    head = with_prefix(weights, "mlp.")
    if not (vision and text and head):
        raise ValueError(f"{path.name} is not ImageReward's checkpoint: it needs weights named blip.visual_encoder.*, "
                         "blip.text_encoder.* and mlp.*.")
    vision_network, size = _vision(renamed(vision, _VISION), path.name)
    width = vision_network.config.hidden_size
    return Blip(vision_network, _text(text, width, path.name), folded_linear(head), size).train(False)


def _vision(weights: Mapping[str, Tensor], file: str) -> tuple[nn.Module, int]:
    width, _, _, patch = weights["embeddings.patch_embedding.weight"].shape
    size = round((weights["embeddings.position_embedding"].shape[1] - 1) ** 0.5) * patch
    config = transformers_class("BlipVisionConfig")(
        hidden_size=width, intermediate_size=weights["encoder.layers.0.mlp.fc1.weight"].shape[0], image_size=size,
        num_hidden_layers=layers(weights, "encoder.layers."), num_attention_heads=max(1, width // 64),
        patch_size=patch, layer_norm_eps=1e-6, hidden_act="gelu")
    with torch.device("meta"):
        network = transformers_class("BlipVisionModel")(config)
    return fill(network, weights, file), size


def _text(weights: Mapping[str, Tensor], vision_width: int, file: str) -> nn.Module:
    vocabulary, width = weights["embeddings.word_embeddings.weight"].shape
    config = transformers_class("BlipTextConfig")(
        vocab_size=vocabulary, hidden_size=width, encoder_hidden_size=vision_width, hidden_act="gelu",
        intermediate_size=weights["encoder.layer.0.intermediate.dense.weight"].shape[0],
        num_hidden_layers=layers(weights, "encoder.layer."), num_attention_heads=max(1, width // 64),
        max_position_embeddings=weights["embeddings.position_embeddings.weight"].shape[0],
        layer_norm_eps=1e-12, is_decoder=True)  # without is_decoder there would be no attention to the image
    with torch.device("meta"):
        network = transformers_class("BlipTextModel")(config, add_pooling_layer=False)
    return fill(network, weights, file)


@lru_cache(maxsize=2)
def load_bert_tokenizer(folder: Path) -> Any:
    """bert-base-uncased's tokenizer; refuses another vocabulary (some releases read a missing one as all unknown)."""
    tokenizer = load_words("BertTokenizer", folder, "vocab.txt", do_lower_case=True)
    ids = list(tokenizer([PROBE])["input_ids"][0])
    if ids != PROBE_IDS:
        raise ValueError(f"the tokenizer in {folder} is not bert-base-uncased: '{PROBE}' became {ids[:8]}, expected "
                         f"{PROBE_IDS}. Put its vocab.txt there.")
    return tokenizer


def tokenize(tokenizer: Any, texts: Sequence[str]) -> tuple[Tensor, Tensor, list[str]]:
    """ids [B,35], mask [B,35] (1 = token), and the texts that had to be cut to 35 tokens."""
    rows = tokenizer(list(texts))["input_ids"]
    cut = [text for text, row in zip(texts, rows) if len(row) > TOKENS]
    rows = [row if len(row) <= TOKENS else [*row[:TOKENS - 1], row[-1]] for row in rows]
    ids = torch.tensor([[*row, *[0] * (TOKENS - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (TOKENS - len(row)) for row in rows])
    return ids, mask, cut
