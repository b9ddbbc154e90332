"""A small random-weight instance of every architecture that the host knows, built as the host builds its own: from the class
in ``comfy.supported_models`` that a checkpoint would be detected as. ``register`` puts them beside those of small_models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import comfy.ldm.chroma.model
import comfy.ldm.chroma_radiance.model
import comfy.ldm.hunyuan_video.model
import comfy.ldm.wan.vae
import comfy.model_patcher
import comfy.sd
import comfy.supported_models as supported
import torch
from small_models import BUILD, CPU, NEWER_FLUX, OWN_TEXT, SIZE, UNET, random_weights, small_vae

_MASK = torch.ones(1, 6, dtype=torch.long)
TEXT = 32  # width of a token, where the architecture does not prescribe it


@dataclass(frozen=True)
class Architecture:
    """of: the class in comfy.supported_models; config: what the host would read from a checkpoint; latent: [C, H, W] or
    [C, 1, H, W]; text, pooled: widths of a token and of the pooled text; extra: what else nodes and encoders put into a
    conditioning; like: classes that are the same network with other numbers, and need no row of their own;
    dtype: of the comparison of gradients; decoded: channels that the VAE takes, where the format unfolds them."""

    name: str
    of: str
    config: dict
    latent: tuple[int, ...] = (16, 8, 8)
    text: int = TEXT
    pooled: int = 64
    extra: Callable[[torch.Generator], dict] = field(default=lambda generator: {})
    like: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float64
    decoded: int = 0

    @property
    def video(self) -> bool:
        return len(self.latent) == 4

    def on_this_host(self) -> bool:
        return hasattr(supported, self.of)

    def build(self):
        return getattr(supported, self.of)(dict(self.config))

    def conditioning(self, seed: int, tokens: int) -> list:
        generator = torch.Generator().manual_seed(1000 + seed)
        extra = {"pooled_output": torch.randn(1, self.pooled, generator=generator), **self.extra(generator)}
        return [[torch.randn(1, tokens, self.text, generator=generator), extra]]


def _randn(*shape: int) -> Callable[[torch.Generator], torch.Tensor]:
    return lambda generator: torch.randn(*shape, generator=generator)


def _with(**values) -> Callable[[torch.Generator], dict]:
    """Values of a conditioning; those that are functions are drawn from its generator."""
    return lambda generator: {key: value(generator) if callable(value) else value for key, value in values.items()}


def _references(*shape: int) -> Callable[[torch.Generator], list[torch.Tensor]]:
    return lambda generator: [torch.randn(1, *shape, generator=generator)]


def _unet(
    of: str, name: str, linear: bool = True, adm: int | None = None, channels: int = 4, pooled: int = 64, **more
) -> Architecture:
    # two channels to a group of its norms: with one, they take out what the noise level adds
    config = {
        **UNET,
        "model_channels": 64,
        "channel_mult": [1, 1],
        "use_linear_in_transformer": linear,
        "adm_in_channels": adm,
        "in_channels": channels,
    }
    config |= {"num_classes": "sequential"} if adm else {}
    rest = {key: more.pop(key) for key in ("extra", "like", "text", "latent") if key in more}
    return Architecture(name, of, config | more, pooled=pooled, **{"latent": (4, 8, 8), **rest})


def _asked(params: type, **values) -> dict:
    """Those that this host's network wants to be told; newer hosts want more."""
    return {key: value for key, value in values.items() if key in {field.name for field in fields(params)}}


_FLUX = dict(
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
_FLUX2 = {
    **_FLUX,
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
_CHROMA = dict(
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
    **_asked(comfy.ldm.chroma.model.ChromaParams, txt_ids_dims=[], vec_in_dim=None),
)
_LUMINA = dict(
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
_QWEN = dict(
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
_HUNYUAN = dict(
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
    **_asked(comfy.ldm.hunyuan_video.model.HunyuanVideoParams, meanflow_sum=False),
)
_PIXART = dict(
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
_HYDIT = dict(
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
_COSMOS = dict(
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
_COSMOS1 = {
    **_COSMOS,
    "image_model": "cosmos",
    "block_config": "FA-CA-MLP",
    "block_x_format": "THWBD",
    "affline_emb_norm": True,
    "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}
_WAN = dict(
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
_LTXV = dict(
    image_model="ltxv",
    in_channels=128,
    cross_attention_dim=64,
    attention_head_dim=16,
    num_attention_heads=4,
    caption_channels=TEXT,
    num_layers=2,
)
_MOCHI = dict(
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
_HIDREAM = dict(
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
_OMNIGEN = dict(
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
_ACE = dict(
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
_SDXL_LIKE = ("SSD1B", "KOALA_700M", "KOALA_1B", "Segmind_Vega")
_PIXEL = {
    **_CHROMA,
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
    "nerf_embedder_dtype": None,
    **_asked(comfy.ldm.chroma_radiance.model.ChromaRadianceParams, use_x0=False, use_sequential_txt_ids=False),
}

ALL = (
    _unet("SD15", "SD1.5", linear=False),
    _unet("SD15", "SD1.5 inpainting", linear=False, channels=9),
    _unet("SD15_instructpix2pix", "InstructPix2Pix", linear=False, channels=8),
    _unet("SD20", "SD2"),
    _unet("SD21UnclipL", "SD2.1 unCLIP", adm=1536, like=("SD21UnclipH",)),
    _unet(
        "SD_X4Upscaler",
        "SD x4 upscaler",
        channels=7,
        num_classes=1000,
        latent=(4, 16, 16),
        channel_mult=[1, 1, 1, 1],
        num_res_blocks=[1, 1, 1, 1],
        transformer_depth=[0, 0, 0, 1],
        transformer_depth_output=[0, 0, 0, 0, 0, 0, 1, 1],
    ),
    _unet("SDXL", "SDXL", adm=2816, pooled=1280, like=_SDXL_LIKE),
    _unet("SDXL", "SDXL inpainting", adm=2816, pooled=1280, channels=9),
    _unet("SDXL_instructpix2pix", "SDXL InstructPix2Pix", adm=2816, pooled=1280, channels=8),
    _unet("SDXLRefiner", "SDXL refiner", adm=2560, pooled=1280),
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
        "PixArt alpha", "PixArtAlpha", {**_PIXART, "image_model": "pixart_alpha", "micro_condition": True}, (4, 40, 40)
    ),
    Architecture(
        "PixArt sigma", "PixArtSigma", {**_PIXART, "image_model": "pixart_sigma", "micro_condition": False}, (4, 40, 40)
    ),
    Architecture(
        "Hunyuan-DiT",
        "HunyuanDiT",
        {**_HYDIT, "image_model": "hydit"},
        (4, 8, 8),
        like=("HunyuanDiT1",),
        extra=_with(
            attention_mask=torch.ones(1, 6), conditioning_mt5xl=_randn(1, 5, TEXT), attention_mask_mt5xl=torch.ones(1, 5)
        ),
    ),
    Architecture("Flux", "Flux", _FLUX, extra=_with(guidance=4.0)),
    Architecture("Flux schnell", "FluxSchnell", {**_FLUX, "guidance_embed": False}),
    Architecture("Flux fill", "FluxInpaint", {**_FLUX, "in_channels": 96}, extra=_with(guidance=4.0)),
    Architecture("Flux Kontext", "Flux", _FLUX, extra=_with(guidance=4.0, reference_latents=_references(16, 8, 8))),
    Architecture("Flux.2", "Flux2", _FLUX2, (128, 4, 4), extra=_with(guidance=4.0)),
    Architecture(
        "Flux.2, reference latents",
        "Flux2",
        _FLUX2,
        (128, 4, 4),
        extra=_with(guidance=4.0, reference_latents=_references(128, 4, 4)),
    ),
    Architecture("Chroma", "Chroma", _CHROMA),
    Architecture("Chroma Radiance", "ChromaRadiance", _PIXEL, (3, 16, 16)),
    Architecture("Lumina 2", "Lumina2", _LUMINA, extra=_with(attention_mask=_MASK)),
    Architecture(
        "Z-Image",
        "ZImage",
        {
            **_LUMINA,
            "dim": 256,
            "axes_dims": [16, 24, 24],
            "n_kv_heads": 4,
            "rope_theta": 256.0,
            "ffn_dim_multiplier": 8 / 3,
            "z_image_modulation": True,
            "time_scale": 1000.0,
            "pad_tokens_multiple": 32,
        },
        extra=_with(attention_mask=_MASK),
    ),
    Architecture("Qwen-Image", "QwenImage", _QWEN, (16, 1, 8, 8)),
    Architecture("Qwen-Image-Edit", "QwenImage", _QWEN, (16, 1, 8, 8), extra=_with(reference_latents=_references(16, 1, 8, 8))),
    Architecture("HiDream", "HiDream", _HIDREAM, extra=_with(conditioning_llama3=_randn(1, 2, 6, TEXT))),
    Architecture("OmniGen2", "Omnigen2", _OMNIGEN, extra=_with(attention_mask=_MASK)),
    Architecture(
        "OmniGen2, reference latents",
        "Omnigen2",
        _OMNIGEN,
        extra=_with(attention_mask=_MASK, reference_latents=_references(16, 8, 8)),
    ),
    Architecture(
        "Hunyuan Image 2.1",
        "HunyuanImage21",
        {**_HUNYUAN, "patch_size": [2, 2], "axes_dim": [8, 8], "vec_in_dim": None, "in_channels": 64, "out_channels": 64},
        (64, 8, 8),
    ),
    Architecture(
        "Hunyuan Image 2.1 refiner",
        "HunyuanImage21Refiner",
        {**_HUNYUAN, "patch_size": [1, 1, 1], "vec_in_dim": None, "in_channels": 128, "out_channels": 64},
        (64, 1, 4, 4),
        decoded=32,
    ),
    Architecture(
        "Cosmos", "CosmosT2V", {**_COSMOS1, "in_channels": 16}, (16, 1, 8, 8), like=("CosmosI2V",), dtype=torch.float32
    ),
    Architecture(
        "Cosmos Predict2",
        "CosmosT2IPredict2",
        {**_COSMOS, "image_model": "cosmos_predict2", "in_channels": 16},
        (16, 1, 8, 8),
        like=("CosmosI2VPredict2",),
        dtype=torch.float32,
    ),
    Architecture("Wan 2.1", "WAN21_T2V", _WAN, (16, 1, 8, 8)),
    Architecture("Wan 2.2 5B", "WAN22_T2V", {**_WAN, "in_dim": 48, "out_dim": 48}, (48, 1, 8, 8)),
    Architecture(
        "Wan image to video",
        "WAN21_I2V",
        {**_WAN, "model_type": "i2v", "in_dim": 36},
        (16, 1, 8, 8),
        like=("WAN21_FunControl2V",),
    ),
    Architecture("LTX-Video", "LTXV", _LTXV, (128, 1, 4, 4), extra=_with(attention_mask=_MASK)),
    Architecture("HunyuanVideo", "HunyuanVideo", _HUNYUAN, (16, 1, 8, 8)),
    Architecture(
        "HunyuanVideo image to video",
        "HunyuanVideoI2V",
        {**_HUNYUAN, "in_channels": 33},
        (16, 1, 8, 8),
        like=("HunyuanVideoSkyreelsI2V",),
    ),
    Architecture(
        "HunyuanVideo 1.5",
        "HunyuanVideo15",
        {
            **_HUNYUAN,
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
    Architecture("Mochi", "GenmoMochi", _MOCHI, (12, 1, 8, 8), extra=_with(attention_mask=_MASK)),
    Architecture("ACE-Step", "ACEStep", _ACE, (8, 16, 8), extra=_with(conditioning_lyrics=torch.zeros(1, 3, dtype=torch.long))),
)
PIXELS = ("ChromaRadiance",)  # these have no latents
# why a class of comfy.supported_models has no row: the classes
NO_ROW = {
    "refused, it turns one image into another without noise": ("LotusD", "WAN21_FlowRVS"),
    "refused, it takes the images of a batch for the frames of one video": ("SVD_img2vid", "SV3D_u", "SV3D_p"),
    "refused, it makes sound": ("StableAudio", "StableAudio3", "ACEStep15", "MiniMaxMusic3"),
    "refused, it makes 3D shapes": ("Hunyuan3Dv2mini", "Hunyuan3Dv2", "Hunyuan3Dv2_1"),
    "untried, its prompts are pictures, which Encode Prompts does not make": ("Stable_Zero123",),
    "untried, two networks in a row, of which each alone draws no picture": ("Stable_Cascade_C", "Stable_Cascade_B"),
    "untried, it follows a control video, a camera or a voice": (
        "WAN21_Vace",
        "WAN21_Camera",
        "WAN22_Camera",
        "WAN22_S2V",
        "WAN21_HuMo",
        "WAN22_Animate",
    ),
    "untried, of hosts newer than the pinned one": (
        "LongCatImage",
        "LTXAV",
        "MiniMaxH3",
        "ZImagePixelSpace",
        "PiD",
        "PixelDiTT2I",
        "WAN21_CausalAR_T2V",
        "WAN_Animate2",
        "WAN21_SCAIL",
        "WAN21_SCAIL2",
        "WAN22_WanDancer",
        "TripoSplat",
        "HiDreamO1",
        "SeedVR2",
        "Boogu",
        "MageFlow",
        "JoyImage",
        "Ideogram4",
        "Krea2",
        "Lens",
        "Kandinsky5Image",
        "Kandinsky5",
        "Anima",
        "ErnieImage",
        "CogVideoX_Inpaint",
        "CogVideoX_I2V",
        "CogVideoX_T2V",
    ),
    "untried, it finds things in pictures and draws none": ("RT_DETR_v4", "SAM3", "SAM31", "DepthAnything3"),
}
HERE = {each.name: each for each in ALL if each.on_this_host()}


def register() -> None:
    """small_model(name), conditioning(name), prompts_for(name) and whatever is built on them know these too."""
    for name, each in HERE.items():
        BUILD[name], SIZE[name], OWN_TEXT[name] = each.build, each.latent, each.conditioning


register()


def small_vae_of(name: str):
    """ComfyUI's own VAE for the architecture's latents, small: of images, of videos (Wan's), or none for models of pixels."""
    each = HERE[name]
    if each.of in PIXELS:
        return comfy.sd.VAE(sd={"pixel_space_vae": torch.ones(1)}, device=CPU, dtype=torch.float32)
    vae, channels = small_vae(name), each.decoded or each.latent[0]
    if each.video:
        network = comfy.ldm.wan.vae.WanVAE(dim=8, z_dim=channels, num_res_blocks=1, temperal_downsample=[False, True, True])
        random_weights(network, 17)
        with torch.no_grad():
            network.decoder.head[-1].weight.mul_(0.1)  # no pixel as far as black or white
        vae.first_stage_model, vae.latent_dim, vae.latent_channels = network.eval(), 3, channels
        vae.patcher = comfy.model_patcher.ModelPatcher(network, load_device=CPU, offload_device=CPU)
    return vae
