"""SDXL and SD3.5 Medium: the host's own modules at their real size, or tiny, with random weights, made where they compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

SDXL, SD35 = "SDXL", "SD3.5 Medium"
UNET = {"image_size": 32, "in_channels": 4, "out_channels": 4, "use_spatial_transformer": True, "legacy": False,
        "use_checkpoint": False, "use_linear_in_transformer": True, "use_temporal_attention": False, "adm_in_channels": 2816,
        "num_classes": "sequential"}  # fmt: skip
VAE = {"double_z": True, "in_channels": 3, "out_ch": 3, "attn_resolutions": [], "dropout": 0.0}


@dataclass(frozen=True)
class Size:
    """A model. network: arguments of its network; vae: of its VAE; tokens, text, pooled: of a prompt; pixels: of a picture's side."""

    name: str
    network: dict[str, Any]
    vae: dict[str, Any]
    tokens: int
    text: int
    pooled: int
    pixels: int = 1024

    @property
    def channels(self) -> int:
        return self.vae["z_channels"]


def _sdxl(**network: Any) -> dict[str, Any]:
    return {**UNET, **network}


def _sd3(depth: int, alone: int, text: int, pooled: int, side: int) -> dict[str, Any]:
    """depth: blocks, 64 channels for each; alone: the first blocks, whose pictures also attend to themselves."""
    embedder = {"target": "torch.nn.Linear", "params": {"in_features": text, "out_features": 64 * depth}}
    return {"in_channels": 16, "out_channels": 16, "patch_size": 2, "depth": depth, "num_blocks": depth, "input_size": None,
            "adm_in_channels": pooled, "qk_norm": "rms", "x_block_self_attn_layers": list(range(alone)),
            "pos_embed_scaling_factor": None, "pos_embed_max_size": side, "num_patches": side**2, "context_embedder_config": embedder}  # fmt: skip


def _vae(channels: int, width: int, blocks: int, grow: tuple[int, ...], resolution: int) -> dict[str, Any]:
    return {
        **VAE,
        "z_channels": channels,
        "ch": width,
        "num_res_blocks": blocks,
        "ch_mult": list(grow),
        "resolution": resolution,
    }


REAL = (
    Size(SDXL, _sdxl(model_channels=320, num_res_blocks=[2, 2, 2], channel_mult=[1, 2, 4], context_dim=2048, num_head_channels=64,
                     transformer_depth=[0, 0, 2, 2, 10, 10], transformer_depth_middle=10,
                     transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10]),
         _vae(4, 128, 2, (1, 2, 4, 4), 256), tokens=77, text=2048, pooled=1280),
    Size(SD35, _sd3(24, 13, 4096, 2048, 384), _vae(16, 128, 2, (1, 2, 4, 4), 256), tokens=154, text=4096, pooled=2048),
)  # fmt: skip
TINY = (
    Size(SDXL, _sdxl(model_channels=32, num_res_blocks=[1, 1], channel_mult=[1, 2], context_dim=32, num_heads=4,
                     num_head_channels=-1, transformer_depth=[0, 1], transformer_depth_middle=1,
                     transformer_depth_output=[0, 0, 1, 1]),
         _vae(4, 32, 1, (1, 1, 1, 1), 64), tokens=6, text=32, pooled=1280, pixels=32),
    Size(SD35, _sd3(2, 1, 32, 64, 16), _vae(16, 32, 1, (1, 1, 1, 1), 64), tokens=6, text=32, pooled=64, pixels=32),
)  # fmt: skip


def patcher(size: Size, dtype: torch.dtype, device: torch.device) -> Any:
    """The host's MODEL, made on the device and left in RAM, as a loader leaves it."""
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.supported_models as supported

    config = {SDXL: supported.SDXL, SD35: supported.SD3}[size.name](dict(size.network))
    config.unet_config["dtype"] = dtype
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, device=device)
    random_weights(model.diffusion_model, device, seed=0)
    there, here = management.get_torch_device(), management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model.to(here), load_device=there, offload_device=here)


def vae(size: Size, dtype: torch.dtype, device: torch.device) -> Any:
    """The host's VAE for the model's latents. Its pictures lie well within black and white, as trained ones' do."""
    import comfy.model_management as management
    import comfy.sd

    parameters = {"ddconfig": dict(size.vae), "embed_dim": size.channels}
    made = comfy.sd.VAE(sd={}, config={"params": parameters}, dtype=dtype)
    network = made.first_stage_model.to(device)
    random_weights(network, device, seed=1)
    with torch.no_grad():
        network.decoder.conv_out.weight.mul_(0.1)
    network.to(management.vae_offload_device())
    return made


def random_weights(network: torch.nn.Module, device: torch.device, seed: int) -> None:
    """Such that activations neither grow nor vanish; the host's constructors leave theirs undefined."""
    random = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            scale = weight[0].numel() ** -0.5 if weight.ndim > 1 else 0.1
            weight.normal_(0, scale, generator=random)
            if weight.ndim == 1 and name.endswith("weight"):
                weight.add_(1)
        for table in network.buffers():  # SD3's positions
            table.normal_(0, 0.1, generator=random)


def prompts(size: Size, prompt: Callable, of: Callable, count: int = 2) -> Any:
    """A PromptSet of noise where a text encoder's answers would be. prompt, of: the pack's Prompt and PromptSet."""
    random = torch.Generator().manual_seed(2)

    def encoded() -> list:
        text = torch.randn(1, size.tokens, size.text, generator=random)
        return [[text, {"pooled_output": torch.randn(1, size.pooled, generator=random)}]]

    texts = tuple(prompt(f"light {number}") for number in range(count))
    return of(texts, tuple(encoded() for _ in texts), encoded())
