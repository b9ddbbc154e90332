"""First weights of the tiny networks: ComfyUI's module constructors leave theirs undefined."""
from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file

from . import models, world


def _normal(generator: torch.Generator, shape: torch.Size, std: float) -> torch.Tensor:
    return torch.randn(shape, generator=generator) * std


def initialise(network: torch.nn.Module, seed: int) -> None:
    """Fill a diffusion network in place: zero where a residual branch ends, N(0, 0.8/sqrt(fan in)) elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    zero = ("adaLN_modulation.1", "final_layer.linear", "out_layers.3", "proj_out", "out.2")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            module = name.rpartition(".")[0]
            if parameter.ndim == 1:
                norm = name.endswith("weight")
                parameter.fill_(1.0 if norm else 0.0)
            elif module.endswith(zero):
                parameter.zero_()
            else:
                parameter.copy_(_normal(generator, parameter.shape, 0.8 / math.sqrt(parameter[0].numel())))


def make_text_encoder(path: Path, seed: int = 0) -> None:
    """Write the frozen random text encoder: every word far from every other, words mixed a little by two layers."""
    clip = models.empty_clip()
    generator = torch.Generator().manual_seed(seed)
    transformer = clip.cond_stage_model.clip_l.transformer
    tokens = sorted({t for text in ["", *world.WORDS] for t, _ in clip.tokenize(text)["l"][0]})
    rows = torch.randn(len(tokens), models.TEXT_WIDTH, generator=generator)
    out = {"token_ids": torch.tensor(tokens), "token_rows": rows}
    for name, value in transformer.state_dict().items():
        if name == models.TOKEN_TABLE:
            continue
        if "position_embedding" in name:
            out[name] = _normal(generator, value.shape, 0.6)
        elif name == "text_projection.weight":
            out[name] = torch.eye(models.TEXT_WIDTH)
        elif value.ndim == 1:
            out[name] = torch.ones_like(value) if name.endswith("weight") else torch.zeros_like(value)
        else:
            gain = 1.6 if "q_proj" in name or "k_proj" in name else 1.0
            out[name] = _normal(generator, value.shape, gain / math.sqrt(value.shape[1]))
    save_file(out, str(path))
