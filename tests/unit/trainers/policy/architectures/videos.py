"""Videos, of which a single frame is an image, and sound, which is none."""

from __future__ import annotations

import torch

from .declared import MASK, TEXT, Architecture, conditioned

COSMOS = dict(
    max_img_h=32,
    max_img_w=32,
    max_frames=4,
    out_channels=16,
    patch_spatial=2,
    patch_temporal=1,
    concat_padding_mask=True,
    model_channels=64,
    num_blocks=2,
    num_heads=4,
    mlp_ratio=2.0,
    crossattn_emb_channels=TEXT,
    pos_emb_cls="rope3d",
    use_adaln_lora=True,
    adaln_lora_dim=16,
)
COSMOS1 = {
    **COSMOS,
    "image_model": "cosmos",
    "block_config": "FA-CA-MLP",
    "block_x_format": "THWBD",
    "affline_emb_norm": True,
    "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}
WAN = dict(
    image_model="wan2.1",
    model_type="t2v",
    patch_size=(1, 2, 2),
    in_dim=16,
    dim=48,
    ffn_dim=64,
    freq_dim=32,
    text_dim=TEXT,
    out_dim=16,
    num_heads=2,
    num_layers=2,
    text_len=8,
)
LTXV = dict(
    image_model="ltxv",
    in_channels=128,
    cross_attention_dim=64,
    attention_head_dim=16,
    num_attention_heads=4,
    caption_channels=TEXT,
    num_layers=2,
)
MOCHI = dict(
    image_model="mochi_preview",
    depth=2,
    patch_size=2,
    num_heads=4,
    hidden_size_x=64,
    hidden_size_y=32,
    mlp_ratio_x=192.0,
    mlp_ratio_y=2.0,
    learn_sigma=False,
    in_channels=12,
    qk_norm=True,
    qkv_bias=False,
    out_bias=True,
    attn_drop=0.0,
    patch_embed_bias=True,
    posenc_preserve_area=True,
    timestep_mlp_bias=True,
    attend_to_padding=False,
    timestep_scale=1000.0,
    use_t5=True,
    t5_feat_dim=TEXT,
    t5_token_length=12,
)
ACE = dict(
    audio_model="ace",
    in_channels=8,
    num_layers=2,
    inner_dim=64,
    attention_head_dim=16,
    num_attention_heads=4,
    mlp_ratio=2.0,
    out_channels=8,
    text_embedding_dim=TEXT,
    ssl_encoder_depths=[1],
    ssl_names=["mert"],
    ssl_latent_dims=[16],
    lyric_encoder_vocab_size=16,
    lyric_hidden_size=1024,
    patch_size=[16, 1],
    max_height=16,
    max_width=64,
)

ROWS = (
    Architecture(
        "Cosmos", "CosmosT2V", {**COSMOS1, "in_channels": 16}, (16, 1, 8, 8), like=("CosmosI2V",), dtype=torch.float32
    ),
    Architecture(
        "Cosmos Predict2",
        "CosmosT2IPredict2",
        {**COSMOS, "image_model": "cosmos_predict2", "in_channels": 16},
        (16, 1, 8, 8),
        like=("CosmosI2VPredict2",),
        dtype=torch.float32,
    ),
    Architecture("Wan 2.1", "WAN21_T2V", WAN, (16, 1, 8, 8)),
    Architecture("Wan 2.2 5B", "WAN22_T2V", {**WAN, "in_dim": 48, "out_dim": 48}, (48, 1, 8, 8)),
    Architecture(
        "Wan image to video",
        "WAN21_I2V",
        {**WAN, "model_type": "i2v", "in_dim": 36},
        (16, 1, 8, 8),
        like=("WAN21_FunControl2V",),
    ),
    Architecture("LTX-Video", "LTXV", LTXV, (128, 1, 4, 4), extra=conditioned(attention_mask=MASK)),
    Architecture("Mochi", "GenmoMochi", MOCHI, (12, 1, 8, 8), extra=conditioned(attention_mask=MASK)),
    Architecture(
        "ACE-Step", "ACEStep", ACE, (8, 16, 8), extra=conditioned(conditioning_lyrics=torch.zeros(1, 3, dtype=torch.long))
    ),
)
