"""Architectures that only hosts newer than the pinned one have."""

from __future__ import annotations

import comfy.ops
import torch

from .declared import MASK, TEXT, Architecture, conditioned, drawn, references
from .flux import FLUX
from .images import OMNIGEN, ZIMAGE
from .videos import COSMOS, WAN

PIXELS = ("ZImagePixelSpace", "PixelDiTT2I", "PiD", "HiDreamO1")
LAYERS = 2  # of the text encoder, whose tokens stand side by side
LONGCAT = {**FLUX, "guidance_embed": False, "vec_in_dim": None, "txt_ids_dims": [1, 2]}
LENS = dict(
    image_model="lens",
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=4,
    enc_hidden_dim=TEXT,
    axes_dims_rope=(4, 6, 6),
    selected_layer_index=tuple(range(LAYERS)),
)
MAGE = dict(
    image_model="mage_flow",
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=4,
    joint_attention_dim=TEXT,
    axes_dims_rope=(4, 6, 6),
)
ERNIE = dict(
    image_model="ernie",
    hidden_size=64,
    num_attention_heads=4,
    num_layers=2,
    ffn_hidden_size=128,
    text_in_dim=TEXT,
    rope_axes_dim=(4, 6, 6),
)
IDEOGRAM = dict(
    image_model="ideogram4",
    num_layers=2,
    num_attention_heads=4,
    attention_head_dim=16,
    intermediate_size=128,
    adaln_dim=32,
    llm_features_dim=TEXT,
    mrope_section=(4, 2, 2),
)
KREA = dict(
    image_model="krea2",
    features=64,
    tdim=32,
    txtdim=TEXT,
    heads=4,
    kvheads=2,
    multiplier=2,
    layers=2,
    txtlayers=LAYERS,
    txtheads=2,
    txtkvheads=2,
)
JOY = dict(
    image_model="joyimage",
    hidden_size=64,
    num_attention_heads=4,
    text_dim=TEXT,
    mlp_width_ratio=2.0,
    num_layers=2,
    rope_dim_list=[4, 6, 6],
)
KANDINSKY = dict(
    image_model="kandinsky5",
    in_text_dim=TEXT,
    in_text_dim2=64,
    time_dim=32,
    model_dim=64,
    ff_dim=128,
    num_text_blocks=1,
    num_visual_blocks=2,
    axes_dims=(4, 6, 6),
)
COGVIDEO = dict(
    image_model="cogvideox",
    num_attention_heads=3,
    attention_head_dim=16,
    time_embed_dim=32,
    text_embed_dim=TEXT,
    num_layers=2,
    sample_width=8,
    sample_height=8,
    sample_frames=1,
    max_text_seq_length=6,
)
BOOGU = {
    **{key: value for key, value in OMNIGEN.items() if key != "text_feat_dim"},
    "image_model": "boogu",
    "num_layers": 2,
    "num_double_stream_layers": 1,
    "instruction_feat_dim": TEXT,
}
PIXELDIT = dict(
    image_model="pixeldit_t2i",
    num_groups=4,
    hidden_size=64,
    pixel_hidden_size=8,
    pixel_attn_hidden_size=64,
    pixel_num_groups=4,
    patch_depth=2,
    pixel_depth=1,
    patch_size=4,
    txt_embed_dim=TEXT,
    txt_max_length=6,
)
SCAIL = {**WAN, "model_type": "scail", "in_dim": 20}
WANDANCER = {
    **WAN,
    "model_type": "wandancer",
    "in_dim": 36,
    "audio_inject_layers": [0],
    "music_dim": 16,
    "music_heads": 2,
    "music_latent_dim": 16,
}
PID = {
    **PIXELDIT,
    "image_model": "pid",
    "lq_hidden_dim": 16,
    "lq_num_res_blocks": 1,
    "latent_spatial_down_factor": 4,
    "sr_scale": 1,
}
HIDREAM_O1 = dict(
    image_model="hidream_o1",
    text_config_overrides=dict(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rope_dims=[4, 2, 2],
    ),
    vision_config_overrides=dict(
        hidden_size=32, num_heads=2, intermediate_size=64, depth=1, num_position_embeddings=16, deepstack_visual_indexes=()
    ),
)


def with_small_adapter(anima):
    """What stands between its two text encoders is of one size in the host."""
    from comfy.ldm.anima.model import LLMAdapter

    network = anima.diffusion_model
    network.llm_adapter = LLMAdapter(
        TEXT, TEXT, TEXT, num_layers=1, num_heads=2, dtype=anima.get_dtype(), operations=comfy.ops.disable_weight_init
    )
    return anima


NOISE_LEVEL_TOKEN = 151673  # its place in the text is where the network is told of the noise level


def hidream_text(generator: torch.Generator) -> torch.Tensor:
    """Numbers of tokens [1, 6]."""
    return torch.cat([torch.randint(0, 1000, (1, 5), generator=generator), torch.tensor([[NOISE_LEVEL_TOKEN]])], 1)


ROWS = (
    Architecture("LongCat-Image", "LongCatImage", LONGCAT),
    Architecture("Lens", "Lens", LENS, (128, 4, 4), text=TEXT * LAYERS, extra=conditioned(attention_mask=MASK)),
    Architecture(
        "Anima",
        "Anima",
        {**COSMOS, "image_model": "anima", "in_channels": 16},
        (16, 1, 8, 8),
        dtype=torch.float32,
        extra=conditioned(
            t5xxl_ids=lambda generator: torch.randint(0, 1000, (6,), generator=generator), t5xxl_weights=torch.ones(6)
        ),
        shrink=with_small_adapter,
    ),
    Architecture(
        "Z-Image, pixels",
        "ZImagePixelSpace",
        {
            **ZIMAGE,
            "image_model": "zimage_pixel",
            "in_channels": 3,
            "patch_size": 4,
            "decoder_hidden_size": 32,
            "decoder_num_res_blocks": 1,
            "decoder_max_freqs": 4,
        },
        (3, 16, 16),
        extra=conditioned(attention_mask=MASK),
    ),
    Architecture(
        "HiDream O1", "HiDreamO1", HIDREAM_O1, (3, 64, 64), extra=conditioned(text_input_ids=hidream_text), dtype=torch.float32
    ),
    Architecture("PixelDiT", "PixelDiTT2I", PIXELDIT, (3, 16, 16), extra=conditioned(attention_mask=MASK)),
    Architecture(
        "PiD",
        "PiD",
        PID,
        (3, 16, 16),
        extra=conditioned(attention_mask=MASK, lq_latent=drawn(1, 16, 4, 4), degrade_sigma=torch.tensor([0.2])),
    ),
    Architecture("Boogu", "Boogu", BOOGU, extra=conditioned(attention_mask=MASK)),
    Architecture(
        "Boogu, reference latents",
        "Boogu",
        BOOGU,
        extra=conditioned(attention_mask=MASK, reference_latents=references(16, 8, 8)),
    ),
    Architecture("Mage-Flow", "MageFlow", MAGE, (128, 4, 4)),
    Architecture("JoyImage", "JoyImage", JOY, (16, 1, 8, 8), dtype=torch.float32),
    Architecture("Ideogram 4", "Ideogram4", IDEOGRAM, (128, 4, 4)),
    Architecture("Krea 2", "Krea2", KREA, (16, 1, 8, 8), text=TEXT * LAYERS),
    Architecture("ERNIE-Image", "ErnieImage", ERNIE, (128, 4, 4), dtype=torch.float32),
    Architecture("Kandinsky 5 image", "Kandinsky5Image", {**KANDINSKY, "visual_embed_dim": 64}),
    Architecture("Kandinsky 5", "Kandinsky5", KANDINSKY, (16, 1, 8, 8)),
    Architecture("CogVideoX", "CogVideoX_T2V", COGVIDEO, (16, 1, 8, 8)),
    Architecture(
        "CogVideoX image to video", "CogVideoX_I2V", {**COGVIDEO, "in_channels": 32}, (16, 1, 8, 8), like=("CogVideoX_Inpaint",)
    ),
    Architecture("Wan, causal", "WAN21_CausalAR_T2V", {**WAN, "causal_ar": True}, (16, 1, 8, 8)),
    Architecture(
        "SCAIL",
        "WAN21_SCAIL",
        SCAIL,
        (16, 1, 8, 8),
        extra=conditioned(reference_latents=references(16, 1, 8, 8), pose_video_latent=drawn(1, 16, 1, 8, 8)),
    ),
    Architecture(
        "SCAIL-2",
        "WAN21_SCAIL2",
        {**SCAIL, "model_type": "scail2"},
        (16, 1, 8, 8),
        extra=conditioned(
            reference_latents=references(16, 1, 8, 8),
            pose_video_latent=drawn(1, 16, 1, 8, 8),
            driving_mask_28ch=drawn(1, 1, 28, 8, 8),
            ref_mask_28ch=drawn(1, 2, 28, 8, 8),
        ),
    ),
    Architecture("WanDancer", "WAN22_WanDancer", WANDANCER, (16, 1, 8, 8)),
)
