"""A LoRA as a folder of PEFT's: adapter_model.safetensors and adapter_config.json, the latter by PEFT's own LoraConfig.

``peft.PeftModel.from_pretrained`` and diffusers' ``load_lora_adapter`` read it. PEFT is imported here only, when a folder is
written.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import safetensors.torch

from ...rewards.base.files import written_whole
from ...rewards.base.words import from_group
from .interchange import PEFT, Lora, in_names, named

WEIGHTS, CONFIG, PREFIX = "adapter_model.safetensors", "adapter_config.json", "base_model.model."


def save_peft_folder(lora: Lora, model, folder: str | Path, metadata: dict[str, str], precision: str = "float32") -> Path:
    """Each file whole or not at all. ValueError: PEFT is not installed, or ``in_names``'. OSError says what stopped it."""
    folder = Path(folder)
    config = lora_config({name.removeprefix(PREFIX): pair for name, pair in named(lora, model, PEFT).items()})
    tensors = in_names(lora, model, PEFT, precision)
    try:
        with tempfile.TemporaryDirectory() as place:
            config.save_pretrained(place)
            with written_whole(folder / CONFIG) as beside:
                shutil.copyfile(Path(place) / CONFIG, beside)
        with written_whole(folder / WEIGHTS) as beside:
            safetensors.torch.save_file(tensors, beside, {key: str(value) for key, value in metadata.items()})
    except Exception as error:
        raise OSError(
            f"the LoRA could not be written to {folder}: {error}; free some space or choose another name. "
            "The policy itself is not lost"
        ) from error
    return folder


def lora_config(parts: Lora):
    """PEFT's LoraConfig for these layers: the commonest rank and alpha, and a pattern for each layer that has others."""
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ValueError(
            f"peft: to write this folder the Python package 'peft' is needed ({error}); install it into ComfyUI's "
            f"Python {from_group('interchange')}, or save one file for diffusers"
        ) from error
    rank = Counter(pair.rank for pair in parts.values()).most_common(1)[0][0]
    alpha = Counter(pair.alpha for pair in parts.values()).most_common(1)[0][0]
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # numbers between are fine
        target_modules=sorted(parts),
        bias="none",
        inference_mode=True,
        rank_pattern={f"^{name}": pair.rank for name, pair in parts.items() if pair.rank != rank},
        alpha_pattern={f"^{name}": pair.alpha for name, pair in parts.items() if pair.alpha != alpha},
    )
