"""One loader for every CLIP with both towers: CLIPScore, PickScore, HPSv2 and v2.1, and OpenCLIP checkpoints.

The network is transformers' CLIPModel, its shape read off the weights; OpenCLIP's names are translated. Tested on
random weights against open_clip to 1e-5.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoints import fill, load_weights, renamed
from .files import read_json
from .hub import load_words, transformers_class

EOS = 49407
PROBE, PROBE_IDS = "a photo of a cat", [49406, 320, 1125, 539, 320, 2368, EOS]  # any CLIP vocabulary gives these
VISION_HEADS = {1280: 16, 1408: 16, 1664: 16}  # H, g, bigG; all others have heads of 64
ACTIVATIONS = ("auto", "quick_gelu", "gelu")

_VISUAL = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.": "vision_model.embeddings.patch_embedding.",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",
    "visual.ln_post.": "vision_model.post_layernorm.",
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
}
_TEXT = {
    "token_embedding.": "text_model.embeddings.token_embedding.",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.": "text_model.final_layer_norm.",
    "transformer.resblocks.": "text_model.encoder.layers.",
}
_BLOCK = {".attn.out_proj.": ".self_attn.out_proj.", ".ln_1.": ".layer_norm1.", ".ln_2.": ".layer_norm2.",
          ".mlp.c_fc.": ".mlp.fc1.", ".mlp.c_proj.": ".mlp.fc2."}


def build_clip(path: Path, activation: str = "auto") -> nn.Module:
    """The frozen CLIPModel of a checkpoint file in transformers' or OpenCLIP's naming.

    activation: of the MLPs; "auto" = what a config.json beside the file says, else quick_gelu for the sizes that
    OpenAI published (B and L) and gelu for larger ones. The weights alone cannot tell.
    """
    weights = transformers_names(load_weights(path))
    missing = [k for k in ("vision_model.embeddings.class_embedding", "text_model.final_layer_norm.weight",
                           "visual_projection.weight", "text_projection.weight") if k not in weights]
    if missing:
        raise ValueError(f"{path.name} is not a CLIP checkpoint with an image and a text tower: {missing[0]} is "
                         "missing. A clip_vision or text encoder file alone does not do.")
    config = clip_config(weights, activation if activation != "auto" else chosen_activation(path, weights))
    with torch.device("meta"):
        network = transformers_class("CLIPModel")(config)
    return fill(network, weights, path.name)


def transformers_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Checkpoint in either naming -> transformers' naming, without stored position numbers."""
    if "visual.conv1.weight" not in weights:
        return {k: v for k, v in weights.items() if not k.endswith("position_ids")}
    weights = {k.removeprefix("text."): v for k, v in weights.items() if k != "attn_mask"}
    result: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name in ("visual.proj", "text_projection"):
            result["visual_projection.weight" if name == "visual.proj" else "text_projection.weight"] = value.T
        elif ".attn.in_proj_" in name:
            kind = name.rpartition("_")[2]
            for part, chunk in zip("qkv", value.chunk(3)):
                result[name.replace(f".attn.in_proj_{kind}", f".self_attn.{part}_proj.{kind}")] = chunk
        else:
            result[name] = value
    visual = {k: v for k, v in result.items() if k.startswith("visual.")}
    text = {k: v for k, v in result.items() if not k.startswith("visual.")}
    return renamed(visual, _VISUAL | _BLOCK) | renamed(text, _TEXT | _BLOCK)


def clip_config(weights: Mapping[str, Tensor], activation: str) -> Any:
    """The CLIPConfig that fits weights in transformers' naming."""
    vision, text = "vision_model.encoder.layers.", "text_model.encoder.layers."
    patches = weights["vision_model.embeddings.patch_embedding.weight"]
    positions = weights["vision_model.embeddings.position_embedding.weight"].shape[0] - 1
    token = weights["text_model.embeddings.token_embedding.weight"]
    projection = weights["visual_projection.weight"].shape[0]
    width, patch = patches.shape[0], patches.shape[-1]
    return transformers_class("CLIPConfig")(
        projection_dim=projection,
        vision_config=dict(
            hidden_size=width, patch_size=patch, image_size=round(positions ** 0.5) * patch, hidden_act=activation,
            num_attention_heads=VISION_HEADS.get(width, max(1, width // 64)), num_hidden_layers=layers(weights, vision),
            intermediate_size=weights[f"{vision}0.mlp.fc1.weight"].shape[0], projection_dim=projection),
        text_config=dict(
            hidden_size=token.shape[1], vocab_size=token.shape[0], hidden_act=activation,
            max_position_embeddings=weights["text_model.embeddings.position_embedding.weight"].shape[0],
            num_attention_heads=max(1, token.shape[1] // 64), num_hidden_layers=layers(weights, text),
            intermediate_size=weights[f"{text}0.mlp.fc1.weight"].shape[0], projection_dim=projection,
            eos_token_id=EOS, bos_token_id=EOS - 1, pad_token_id=0))


def layers(weights: Mapping[str, Tensor], prefix: str) -> int:
    """How many numbered blocks the weights hold under a prefix."""
    return 1 + max(int(k[len(prefix):].split(".")[0]) for k in weights if k.startswith(prefix))


def chosen_activation(path: Path, weights: Mapping[str, Tensor]) -> str:
    found = read_json(path.with_name("config.json"))
    for part in (found.get("vision_config") or {}, found):
        if part.get("hidden_act") in ACTIVATIONS[1:]:
            return part["hidden_act"]
    return "quick_gelu" if weights["vision_model.embeddings.class_embedding"].shape[0] <= 1024 else "gelu"


@lru_cache(maxsize=2)
def load_tokenizer(folder: Path) -> Any:
    """The CLIP tokenizer of a folder; refuses one that reads words differently from what CLIP was trained with."""
    tokenizer = load_words("CLIPTokenizer", folder, "vocab.json and merges.txt")
    ids = tokenizer([PROBE])["input_ids"][0]
    if list(ids) != PROBE_IDS:
        raise ValueError(f"the tokenizer in {folder} is not CLIP's: '{PROBE}' became {list(ids)[:8]}, expected "
                         f"{PROBE_IDS}. Its vocabulary files are missing or belong to another model.")
    return tokenizer


def tokenize(tokenizer: Any, texts: Sequence[str], limit: int) -> tuple[Tensor, list[str]]:
    """Token ids [N, limit], zeros after the end token; and the texts that had to be cut to fit."""
    ids, cut = torch.zeros(len(texts), limit, dtype=torch.int64), []
    for row, text, tokens in zip(ids, texts, tokenizer(list(texts))["input_ids"]):
        if len(tokens) > limit:
            cut.append(text)
            tokens = [*tokens[:limit - 1], EOS]
        row[:len(tokens)] = torch.tensor(tokens)
    return ids, cut
