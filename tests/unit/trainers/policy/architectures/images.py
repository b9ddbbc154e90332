"""Transformers that draw images, beside Flux's family and Hunyuan's."""

from __future__ import annotations

import torch

from .declared import MASK, TEXT, Architecture, conditioned, drawn, references

PIXART = dict(
    num_heads=4,
    patch_size=2,
    hidden_size=96,
    in_channels=4,
    depth=2,
    caption_channels=TEXT,
    input_size=16,
    model_max_length=12,
    mlp_ratio=2.0,
    pe_interpolation=1,
)
HYDIT = dict(
    input_size=16,
    patch_size=2,
    in_channels=4,
    hidden_size=64,
    depth=4,
    num_heads=4,
    mlp_ratio=2.0,
    text_states_dim=TEXT,
    text_states_dim_t5=TEXT,
    text_len=6,
    text_len_t5=5,
)
LUMINA = dict(
    image_model="lumina2",
    in_channels=16,
    patch_size=2,
    dim=64,
    cap_feat_dim=TEXT,
    n_layers=2,
    n_refiner_layers=1,
    n_heads=4,
    n_kv_heads=2,
    qk_norm=True,
    axes_dims=[4, 6, 6],
    axes_lens=[64, 64, 64],
    multiple_of=32,
)
ZIMAGE = {
    **LUMINA,
    "dim": 256,
    "axes_dims": [16, 24, 24],
    "n_kv_heads": 4,
    "rope_theta": 256.0,
    "ffn_dim_multiplier": 8 / 3,
    "z_image_modulation": True,
    "time_scale": 1000.0,
    "pad_tokens_multiple": 32,
}
QWEN = dict(
    image_model="qwen_image",
    patch_size=2,
    in_channels=64,
    out_channels=16,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=4,
    joint_attention_dim=TEXT,
    axes_dims_rope=(4, 6, 6),
)
HIDREAM = dict(
    image_model="hidream",
    attention_head_dim=16,
    axes_dims_rope=[8, 4, 4],
    caption_channels=[TEXT, TEXT, TEXT, TEXT, TEXT],
    max_resolution=[32, 32],
    in_channels=16,
    llama_layers=[0, 1, 1, 0],
    num_attention_heads=4,
    num_routed_experts=2,
    num_activated_experts=1,
    num_layers=2,
    num_single_layers=2,
    out_channels=16,
    patch_size=2,
    text_emb_dim=64,
)
OMNIGEN = dict(
    image_model="omnigen2",
    patch_size=2,
    in_channels=16,
    hidden_size=96,
    num_layers=6,
    num_refiner_layers=1,
    num_attention_heads=4,
    num_kv_heads=2,
    multiple_of=32,
    axes_dim_rope=(8, 8, 8),
    axes_lens=(64, 64, 64),
    text_feat_dim=TEXT,
    timestep_scale=1000.0,
)

ROWS = (
    Architecture(
        "SD3, SD3.5",
        "SD3",
        dict(
            in_channels=16,
            out_channels=16,
            patch_size=2,
            depth=2,
            input_size=None,
            adm_in_channels=64,
            qk_norm="rms",
            num_blocks=2,
            x_block_self_attn_layers=[0],
            pos_embed_scaling_factor=None,
            pos_embed_max_size=16,
            context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": TEXT, "out_features": 128}},
        ),
    ),
    Architecture(
        "AuraFlow", "AuraFlow", dict(cond_seq_dim=TEXT, max_seq=64, n_layers=4, n_double_layers=2, dim=64, n_heads=4), (4, 8, 8)
    ),
    Architecture(
        "PixArt alpha", "PixArtAlpha", {**PIXART, "image_model": "pixart_alpha", "micro_condition": True}, (4, 40, 40)
    ),
    Architecture(
        "PixArt sigma", "PixArtSigma", {**PIXART, "image_model": "pixart_sigma", "micro_condition": False}, (4, 40, 40)
    ),
    Architecture(
        "Hunyuan-DiT",
        "HunyuanDiT",
        {**HYDIT, "image_model": "hydit"},
        (4, 8, 8),
        like=("HunyuanDiT1",),
        extra=conditioned(
            attention_mask=torch.ones(1, 6), conditioning_mt5xl=drawn(1, 5, TEXT), attention_mask_mt5xl=torch.ones(1, 5)
        ),
    ),
    Architecture("Lumina 2", "Lumina2", LUMINA, extra=conditioned(attention_mask=MASK)),
    Architecture(
        "Z-Image",
        "ZImage",
        ZIMAGE,
        extra=conditioned(attention_mask=MASK),
    ),
    Architecture("Qwen-Image", "QwenImage", QWEN, (16, 1, 8, 8)),
    Architecture(
        "Qwen-Image-Edit", "QwenImage", QWEN, (16, 1, 8, 8), extra=conditioned(reference_latents=references(16, 1, 8, 8))
    ),
    Architecture("HiDream", "HiDream", HIDREAM, extra=conditioned(conditioning_llama3=drawn(1, 2, 6, TEXT))),
    Architecture("OmniGen2", "Omnigen2", OMNIGEN, extra=conditioned(attention_mask=MASK)),
    Architecture(
        "OmniGen2, reference latents",
        "Omnigen2",
        OMNIGEN,
        extra=conditioned(attention_mask=MASK, reference_latents=references(16, 8, 8)),
    ),
)
