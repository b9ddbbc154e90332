"""Model files of real size and real layout with random weights: names, shapes and types are those of the host's own modules.

The modules are made on the meta device, where a weight takes no memory; the host's own saver gives the names of a checkpoint.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..benchmarks.gpu.models import REAL, SD35, SDXL

HALF, BRAIN, EIGHT, FULL = torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float32
META = torch.device("meta")
NETWORKS = {size.name: size.network for size in REAL}
SD15 = {**NETWORKS[SDXL], "use_linear_in_transformer": False, "adm_in_channels": None, "num_classes": None, "model_channels": 320,
        "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "context_dim": 768, "num_heads": 8, "num_head_channels": -1,
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]}  # fmt: skip
FLUX = {"image_model": "flux", "in_channels": 16, "patch_size": 2, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096,
        "hidden_size": 3072, "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "axes_dim": [16, 56, 56],
        "theta": 10000, "qkv_bias": True, "guidance_embed": True}  # fmt: skip
QWEN = {"image_model": "qwen_image", "in_channels": 64, "num_layers": 60}
Z_IMAGE = {"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 3840, "cap_feat_dim": 2560, "n_layers": 30,
           "qk_norm": True, "n_heads": 30, "n_kv_heads": 30, "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512],
           "rope_theta": 256.0, "ffn_dim_multiplier": 8 / 3, "z_image_modulation": True, "time_scale": 1000.0,
           "pad_tokens_multiple": 32}  # fmt: skip
# by what the host knows a VAE, and how large it is
IN, DOWN = "decoder.conv_in.weight", "encoder.down.2.downsample.conv.weight"
WITH_QUANT = {IN: (512, 4, 3, 3), DOWN: (512, 512, 3, 3), "post_quant_conv.weight": (4, 4, 1, 1)}
WITHOUT = {IN: (512, 16, 3, 3), DOWN: (512, 512, 3, 3)}
WAN = {"decoder.middle.0.residual.0.gamma": (384, 1, 1, 1), "decoder.head.0.gamma": (96, 1, 1, 1)}


@dataclass(frozen=True)
class Family:
    """A published model. network: of comfy.supported_models and its arguments; text: module and class of comfy, or what makes the
    class, with its arguments; vae: some of its weights' shapes; types: of the files' network, text encoder and VAE."""

    name: str
    network: str
    arguments: Mapping[str, Any]
    text: tuple[str, str, dict[str, Any] | None]
    vae: Mapping[str, tuple[int, ...]]
    types: tuple[torch.dtype, torch.dtype, torch.dtype]


T5_SCALED = {"dtype_t5": EIGHT, "t5xxl_scaled_fp8": EIGHT}
FAMILIES = {
    "own_sd15": Family("SD1.5", "SD15", SD15, ("sd1_clip", "SD1ClipModel", None), WITH_QUANT, (HALF, HALF, HALF)),
    "own_sdxl": Family("SDXL", "SDXL", NETWORKS[SDXL], ("sdxl_clip", "SDXLClipModel", None), WITH_QUANT, (HALF, HALF, HALF)),
    "own_sd35": Family("SD3.5 Medium", "SD3", NETWORKS[SD35], ("text_encoders.sd3_clip", "sd3_clip", T5_SCALED), WITHOUT,
                       (HALF, HALF, HALF)),
    "own_flux": Family("Flux.1 dev, fp8", "Flux", FLUX, ("text_encoders.flux", "flux_clip", {"dtype_t5": EIGHT}), WITHOUT,
                       (EIGHT, HALF, FULL)),
    "own_qwen": Family("Qwen-Image, fp8", "QwenImage", QWEN,
                       ("text_encoders.qwen_image", "te", {"dtype_llama": HALF, "llama_scaled_fp8": EIGHT}), WAN,
                       (EIGHT, HALF, BRAIN)),
    "own_z_image": Family("Z-Image", "ZImage", Z_IMAGE, ("text_encoders.z_image", "te", {"dtype_llama": BRAIN}), WITHOUT,
                          (BRAIN, BRAIN, FULL)),
}  # fmt: skip
State = Mapping[str, Tensor]


def model_of(family: Family) -> Any:
    """The host's MODEL without a wrapper, on the meta device."""
    config = getattr(importlib.import_module("comfy.supported_models"), family.network)(dict(family.arguments))
    config.unet_config["dtype"] = family.types[0]
    config.set_inference_dtype(family.types[0], None)
    with META:
        return config.get_model({}, device=META)


def text_encoder(family: Family) -> torch.nn.Module:
    module, name, arguments = family.text
    kind = getattr(importlib.import_module(f"comfy.{module}"), name)
    with META:
        return (kind if arguments is None else kind(**arguments))(device=META, dtype=family.types[1])


def vae_of(family: Family) -> dict[str, Tensor]:
    from comfy.sd import VAE

    with META:
        known = {name: torch.empty(shape) for name, shape in family.vae.items()}
        state = VAE(sd=known).first_stage_model.state_dict()
    return {name: weight.to(family.types[2]) for name, weight in state.items()}


def parts_of(family: Family) -> dict[str, State]:
    """For each kind of loader what its file holds, on the meta device."""
    model, text = model_of(family), text_encoder(family)
    (single,) = [module for name, module in text.named_modules() if name.endswith(".transformer")][:1]
    vae = vae_of(family)
    return {
        "CheckpointLoaderSimple": model.state_dict_for_saving(dict(text.state_dict()), dict(vae)),
        "UNETLoader": model.diffusion_model.state_dict(),
        "CLIPLoader": single.state_dict(),
        "VAELoader": vae,
    }


LENGTH = 2**22 - 3  # of the random numbers that fill a file: no row of a matrix is like the next
NAMES = {HALF: "F16", BRAIN: "BF16", FULL: "F32", EIGHT: "F8_E4M3", torch.int64: "I64"}


def size_of(state: State) -> int:
    """Bytes of the file."""
    return sum(weight.numel() * weight.element_size() for weight in state.values())


def write(file: Path, state: State) -> None:
    """As safetensors, weight by weight: no more than one is held."""
    header, end = {}, 0
    for name, weight in state.items():
        begin, end = end, end + weight.numel() * weight.element_size()
        header[name] = {"dtype": NAMES[weight.dtype], "shape": list(weight.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = torch.randn(LENGTH, generator=torch.Generator().manual_seed(0))
    with file.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name, weight in state.items():
            numbers = filling(name, weight, random)
            for _ in range(weight.numel() // LENGTH):
                out.write(numbers)
            out.write(numbers[: weight.numel() % LENGTH * weight.element_size()])


def filling(name: str, weight: Tensor, random: Tensor) -> bytes:
    """Numbers under which activations neither grow nor vanish, repeated where a weight has more."""
    count = min(weight.numel(), LENGTH)
    if not weight.is_floating_point():
        numbers = torch.arange(count)
    elif weight.ndim == 0:  # a scale
        numbers = torch.ones(1)
    elif weight.ndim == 1:
        numbers = random[:count] * 0.1 + float(name.endswith(("weight", "scale", "gamma")))
    else:
        numbers = random[:count] / math.sqrt(weight[0].numel())
    return numbers.to(weight.dtype).view(torch.uint8).numpy().tobytes()
