"""A small CLIP of the demo world: a learned reward that reads prompts and can be differentiated, and be fooled.

It goes through the same code as any published CLIP; only its file is smaller, since it keeps the rows of the words that it
knows and no others.
"""
from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..rewards.learned.checkpoints import fill, load_weights
from ..rewards.learned.clip import clip_config
from ..rewards.learned.clip_rewards import ClipReward
from ..rewards.learned.holder import clip_tokenizer_folder, shared
from ..rewards.learned.hub import transformers_class
from .models import TOKEN_TABLE, WEIGHTS, with_token_table

JUDGE_FILE = WEIGHTS / "judge_clip.safetensors"
STYLES = {"bright": 0.63, "dark": 0.37}  # word before the prompt -> lightness of the background
ACTIVATION = "quick_gelu"


def demo_judge(file: Path = JUDGE_FILE) -> ClipReward:
    """CLIPScore with the demo world's own CLIP. FileNotFoundError where its weights are missing."""
    if not file.is_file():
        raise FileNotFoundError(f"The weights of the demo world's judge are missing: {file}. Run 'python develop.py pretrain "
                                "judge'.")
    return ClipReward("CLIPScore", shared(file, "demo judge", lambda: build_judge(file), "fp32"), clip_tokenizer_folder(), 64)


def build_judge(file: Path) -> nn.Module:
    """The frozen CLIPModel of a judge's file."""
    weights = with_token_table(load_weights(file))
    with torch.device("meta"):
        network = transformers_class("CLIPModel")(clip_config(weights, ACTIVATION))
    return fill(network, weights, file.name)


def styled(style: str, caption: str) -> str:
    """The prompt with a word for its style before it, as SRPO writes them: ``bright. a red ball``."""
    return f"{style}. {caption}" if style else caption


def packed(weights: dict[str, Tensor], tokens: list[int]) -> dict[str, Tensor]:
    """Weights as they are kept: of the token table only these rows, half precision."""
    kept = {name: value.half() for name, value in weights.items() if name != TOKEN_TABLE}
    return kept | {"token_ids": torch.tensor(tokens), "token_rows": weights[TOKEN_TABLE][tokens].half()}
