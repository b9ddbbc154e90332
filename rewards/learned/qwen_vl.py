"""Images and words as the Qwen-VL family reads them (Qwen2-VL, Qwen2.5-VL, Qwen3-VL), in torch and differentiable.

Used by HPSv3 and by the VLM judge in process. transformers' own processors round to 8 bit and need more packages.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .files import read_json
from .hub import load_words
from .preprocess import CLIP_MEAN, CLIP_STD, resized

TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
PAD, START, END = "<|image_pad|>", "<|vision_start|>", "<|vision_end|>"
TEMPORAL = 2  # a still image is fed as two equal frames
_NO_SYSTEM = ("qwen3_vl",)


@dataclass(frozen=True)
class Vision:
    """patch: side of a patch in pixels; merge: patches per token and side; mean, std: of the normalisation."""

    patch: int
    merge: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def read_vision(folder: Path) -> tuple[str, Vision]:
    """Model type and image settings of a folder. Raises ValueError for another family."""
    config = read_json(folder / "config.json")
    kind = config.get("model_type", "")
    if kind not in TYPES:
        raise ValueError(f"{folder.name} is a '{kind}' model. In process, the judge runs {', '.join(TYPES)}; serve other "
                         "models with an OpenAI-compatible server and use that node.")
    vision, images = config.get("vision_config", {}), read_json(folder / "preprocessor_config.json")
    return kind, Vision(vision.get("patch_size", 14), vision.get("spatial_merge_size", 2),
                        tuple(images.get("image_mean", CLIP_MEAN)), tuple(images.get("image_std", CLIP_STD)))


def smart_size(height: int, width: int, step: int, pixels: int) -> tuple[int, int]:
    """Height and width as multiples of step with nearly the same shape and an area near `pixels`: rounded down where
    the image is larger, up where it is smaller, as the family's models were trained."""
    scale = math.sqrt(pixels / (height * width))
    near = round(height / step) * step * round(width / step) * step
    if near == pixels:
        return round(height / step) * step, round(width / step) * step
    whole = math.floor if near > pixels else math.ceil
    high, wide = (max(step, whole(n * scale / step) * step) for n in (height, width))
    most = 2 * pixels // min(high, wide) // step * step  # an extremely long image must not explode
    return min(high, most), min(wide, most)


def patches(images: Tensor, vision: Vision, pixels: int) -> tuple[Tensor, Tensor]:
    """[B,H,W,3] in [0, 1] -> flattened patches [B*gh*gw, 3*2*p*p] and grid [B,3] (1, gh, gw)."""
    size = smart_size(*images.shape[1:3], vision.patch * vision.merge, pixels)
    x = resized(images.float().movedim(-1, 1), size)
    x = (x - x.new_tensor(vision.mean).view(3, 1, 1)) / x.new_tensor(vision.std).view(3, 1, 1)
    p, m, (gh, gw) = vision.patch, vision.merge, (size[0] // vision.patch, size[1] // vision.patch)
    x = x[:, None].expand(-1, TEMPORAL, -1, -1, -1)
    x = x.reshape(len(x), TEMPORAL, 3, gh // m, m, p, gw // m, m, p)
    x = x.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(len(x) * gh * gw, 3 * TEMPORAL * p * p)
    return x, torch.tensor([[1, gh, gw]] * len(images), device=x.device)


def conversation(kind: str, text: str, image_tokens: Sequence[int]) -> str:
    """One user turn: the images (each with its number of tokens), then the text; the assistant is to answer."""
    system = "" if kind in _NO_SYSTEM else "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    seen = "".join(f"{START}{PAD * count}{END}" for count in image_tokens)
    return f"{system}<|im_start|>user\n{seen}{text}<|im_end|>\n<|im_start|>assistant\n"


def network_inputs(tokenizer: Any, texts: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    """Token ids padded on the left, so that the answer comes at the last position of every row."""
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    longest, pad = max(map(len, rows)), tokenizer.pad_token_id or 0
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    image = tokenizer.convert_tokens_to_ids(PAD)
    return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": (ids == image).int()}


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer. Raises ValueError if it is damaged or does not know the image tokens."""
    tokenizer = load_words("AutoTokenizer", folder, "tokenizer.json and tokenizer_config.json", trust_remote_code=False)
    unknown = [t for t in (PAD, START, END, "<|im_start|>") if t not in tokenizer.get_vocab()]
    if unknown:
        raise ValueError(f"the tokenizer in {folder} is not a Qwen-VL one: it does not know {unknown[0]}. Copy "
                         "tokenizer.json and tokenizer_config.json of the same model there.")
    return tokenizer
