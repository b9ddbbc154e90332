"""Hunyuan's images and videos, of which a single frame is an image."""

from __future__ import annotations

import comfy.ldm.hunyuan_video.model

from .declared import TEXT, Architecture, asked

HUNYUAN = dict(
    image_model="hunyuan_video",
    in_channels=16,
    out_channels=16,
    patch_size=[1, 2, 2],
    vec_in_dim=64,
    context_in_dim=TEXT,
    hidden_size=64,
    mlp_ratio=2.0,
    num_heads=4,
    depth=2,
    depth_single_blocks=2,
    axes_dim=[4, 6, 6],
    theta=256,
    qkv_bias=True,
    guidance_embed=True,
    byt5=False,
    meanflow=False,
    use_cond_type_embedding=False,
    vision_in_dim=None,
    **asked(comfy.ldm.hunyuan_video.model.HunyuanVideoParams, meanflow_sum=False),
)

ROWS = (
    Architecture(
        "Hunyuan Image 2.1",
        "HunyuanImage21",
        {**HUNYUAN, "patch_size": [2, 2], "axes_dim": [8, 8], "vec_in_dim": None, "in_channels": 64, "out_channels": 64},
        (64, 8, 8),
    ),
    Architecture(
        "Hunyuan Image 2.1 refiner",
        "HunyuanImage21Refiner",
        {**HUNYUAN, "patch_size": [1, 1, 1], "vec_in_dim": None, "in_channels": 128, "out_channels": 64},
        (64, 1, 4, 4),
        decoded=32,
    ),
    Architecture("HunyuanVideo", "HunyuanVideo", HUNYUAN, (16, 1, 8, 8)),
    Architecture(
        "HunyuanVideo image to video",
        "HunyuanVideoI2V",
        {**HUNYUAN, "in_channels": 33},
        (16, 1, 8, 8),
        like=("HunyuanVideoSkyreelsI2V",),
    ),
    Architecture(
        "HunyuanVideo 1.5",
        "HunyuanVideo15",
        {
            **HUNYUAN,
            "in_channels": 65,
            "out_channels": 32,
            "patch_size": [1, 1, 1],
            "vec_in_dim": None,
            "vision_in_dim": 24,
            "use_cond_type_embedding": True,
            "guidance_embed": False,
        },
        (32, 1, 4, 4),
        like=("HunyuanVideo15_SR_Distilled",),
    ),
)
