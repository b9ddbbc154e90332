"""Flux and what was made from it."""

from __future__ import annotations

import comfy.ldm.chroma.model
import comfy.ldm.chroma_radiance.model
import torch
from small_models import NEWER_FLUX

from .declared import TEXT, Architecture, asked, conditioned, references

FLUX = dict(
    image_model="flux",
    in_channels=16,
    out_channels=16,
    patch_size=2,
    vec_in_dim=64,
    context_in_dim=TEXT,
    hidden_size=64,
    mlp_ratio=2.0,
    num_heads=4,
    depth=2,
    depth_single_blocks=2,
    axes_dim=[4, 6, 6],
    theta=10000,
    qkv_bias=True,
    guidance_embed=True,
    **NEWER_FLUX,
)
FLUX2 = {
    **FLUX,
    "image_model": "flux2",
    "in_channels": 128,
    "out_channels": 128,
    "patch_size": 1,
    "vec_in_dim": None,
    "axes_dim": [4, 4, 4, 4],
    "theta": 2000,
    "mlp_ratio": 3.0,
    "global_modulation": True,
    "mlp_silu_act": True,
    "qkv_bias": False,
    "ops_bias": False,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
    **({"txt_ids_dims": [3]} if NEWER_FLUX else {}),
}
CHROMA = dict(
    image_model="chroma",
    in_channels=64,
    out_channels=64,
    patch_size=2,
    context_in_dim=TEXT,
    hidden_size=64,
    mlp_ratio=2.0,
    num_heads=4,
    depth=2,
    depth_single_blocks=2,
    axes_dim=[4, 6, 6],
    theta=10000,
    qkv_bias=True,
    in_dim=64,
    out_dim=64,
    hidden_dim=32,
    n_layers=2,
    **asked(comfy.ldm.chroma.model.ChromaParams, txt_ids_dims=[], vec_in_dim=None),
)
PIXEL = {
    **CHROMA,
    "image_model": "chroma_radiance",
    "in_channels": 3,
    "out_channels": 3,
    "patch_size": 4,
    "nerf_hidden_size": 16,
    "nerf_mlp_ratio": 2,
    "nerf_depth": 1,
    "nerf_max_freqs": 4,
    "nerf_tile_size": 0,
    "nerf_final_head_type": "conv",
    "nerf_embedder_dtype": torch.float32,
    **asked(comfy.ldm.chroma_radiance.model.ChromaRadianceParams, use_x0=False, use_sequential_txt_ids=False),
}
PIXELS = ("ChromaRadiance",)

ROWS = (
    Architecture("Flux", "Flux", FLUX, extra=conditioned(guidance=4.0)),
    Architecture("Flux schnell", "FluxSchnell", {**FLUX, "guidance_embed": False}),
    Architecture("Flux fill", "FluxInpaint", {**FLUX, "in_channels": 96}, extra=conditioned(guidance=4.0)),
    Architecture("Flux Kontext", "Flux", FLUX, extra=conditioned(guidance=4.0, reference_latents=references(16, 8, 8))),
    Architecture("Flux.2", "Flux2", FLUX2, (128, 4, 4), extra=conditioned(guidance=4.0)),
    Architecture(
        "Flux.2, reference latents",
        "Flux2",
        FLUX2,
        (128, 4, 4),
        extra=conditioned(guidance=4.0, reference_latents=references(128, 4, 4)),
    ),
    Architecture("Chroma", "Chroma", CHROMA),
    Architecture("Chroma Radiance", "ChromaRadiance", PIXEL, (3, 16, 16)),
)
