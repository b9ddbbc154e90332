"""Genuine ComfyUI objects around the tiny networks: MODEL (flow, eps, or one that edits), CLIP and VAE, built from stock classes.

The stock checkpoint loaders recognise architectures by channel numbers that no tiny network has, so the
configuration is written out here; the classes that run are ComfyUI's own.
"""
from __future__ import annotations

import json
from pathlib import Path

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.taesd.taesd
import comfy.utils
import torch

WEIGHTS = Path(__file__).parent / "weights"
FILES = {"flow": WEIGHTS / "flow_mmdit.safetensors", "eps": WEIGHTS / "eps_unet.safetensors",
         "edit": WEIGHTS / "edit_mmdit.safetensors"}
NAMES = {"flow": "flow", "unet": "eps", "edit": "edit"}  # as they are made: develop.py pretrain unet
TEXT_FILE = WEIGHTS / "text_encoder.safetensors"
TEXT_TOKENS, TEXT_WIDTH = 12, 64
TOKEN_TABLE, VOCABULARY = "text_model.embeddings.token_embedding.weight", 49408
TEXT_CONFIG = {"num_hidden_layers": 2, "hidden_size": TEXT_WIDTH, "num_attention_heads": 2, "intermediate_size": 128,
               "hidden_act": "quick_gelu", "max_position_embeddings": TEXT_TOKENS, "eos_token_id": 49407}

FLOW_CONFIG = {"input_size": None, "patch_size": 4, "in_channels": 3, "out_channels": 3, "depth": 2, "num_blocks": 3,
               "adm_in_channels": TEXT_WIDTH, "qk_norm": "rms", "pos_embed_scaling_factor": None,
               "x_block_self_attn_layers": [],
               "context_embedder_config": {"target": "torch.nn.Linear",
                                           "params": {"in_features": TEXT_WIDTH, "out_features": 128}}}
# 64 channels, not 32: GroupNorm has 32 groups, and with one channel a group the mean colour of an image is lost
EPS_CONFIG = {"image_size": 24, "in_channels": 3, "out_channels": 3, "model_channels": 64, "channel_mult": [1, 1, 1],
              "num_res_blocks": [0, 0, 2], "use_spatial_transformer": True, "transformer_depth": [1, 1],
              "transformer_depth_middle": 1, "transformer_depth_output": [0, 0, 1, 1, 1], "context_dim": TEXT_WIDTH,
              "use_linear_in_transformer": False, "adm_in_channels": None, "use_temporal_attention": False,
              "legacy": False}

# the flow model that also takes a picture, beside the noise, as InstructPix2Pix does
EDIT_CONFIG = {**FLOW_CONFIG, "in_channels": 6}


class PixelLatents(comfy.latent_formats.LatentFormat):
    """Latents that are the pixels: three channels, from -1 to 1.

    It keeps the base class's ratio, one latent pixel for eight of an image. Hosts that know a ratio rescale an Empty Latent
    Image by it; so 192 x 192 gives 24 x 24 on every host, and workflows drawn on one draw the same on all.
    """

    latent_channels = 3
    latent_rgb_factors = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


class _TinySD3(comfy.supported_models.SD3):
    unet_config: dict = {}
    latent_format = PixelLatents
    sampling_settings = {"shift": 2.0}
    supported_inference_dtypes = [torch.float32]


class _TinySD15(comfy.supported_models.SD15):
    unet_config: dict = {}
    unet_extra_config = {"num_heads": 4, "num_head_channels": -1}
    latent_format = PixelLatents
    supported_inference_dtypes = [torch.float32]


class _TinyEditor(_TinySD3):
    def get_model(self, state_dict, prefix="", device=None):
        model = super().get_model(state_dict, prefix, device=device)
        model.concat_keys = ("concat_image",)  # the host's name for what InstructPixToPixConditioning gives
        return model


_CLASSES = {"flow": (_TinySD3, FLOW_CONFIG), "eps": (_TinySD15, EPS_CONFIG), "edit": (_TinyEditor, EDIT_CONFIG)}


def build_network(kind: str) -> comfy.model_base.BaseModel:
    """The network of ``kind`` ("flow", "eps" or "edit") with weights still undefined, float32, on the CPU."""
    config_class, config = _CLASSES[kind]
    settings = config_class({**config, "dtype": torch.float32})
    return settings.get_model({}, "", device=torch.device("cpu"))


def load_model(kind: str, path: Path | None = None, disable_dynamic: bool = True) -> comfy.model_patcher.ModelPatcher:
    """A stock MODEL from a safetensors file (the shipped one by default). disable_dynamic: as the host asks where it loads the
    model anew for a copy of its own; it is never dynamic here."""
    path = path or FILES[kind]
    if not path.is_file():
        name = next(name for name, made in NAMES.items() if made == kind)
        raise FileNotFoundError(f"The weights of the demo world are missing: {path}. "
                                f"Run 'python develop.py pretrain {name}'.")
    network = build_network(kind)
    weights = {k: v.float() for k, v in comfy.utils.load_torch_file(str(path), safe_load=True).items()}
    network.diffusion_model.load_state_dict(weights)
    network.requires_grad_(False)
    model = comfy.model_patcher.ModelPatcher(network, load_device=comfy.model_management.get_torch_device(),
                                             offload_device=comfy.model_management.unet_offload_device())
    model.cached_patcher_init = (load_model, (kind, path))  # newer hosts' Train LoRA copies a model by loading it again
    return model


def editor_from_flow() -> comfy.model_base.BaseModel:
    """The network that edits, as it is before it has learned: the flow model, which does not look at the picture."""
    network = build_network("edit")
    weights = load_model("flow").model.diffusion_model.state_dict()
    eyes = weights["x_embedder.proj.weight"]
    weights["x_embedder.proj.weight"] = torch.cat([eyes, torch.zeros_like(eyes)], 1)
    network.diffusion_model.load_state_dict(weights)
    return network


def load_vae() -> comfy.sd.VAE:
    """The stock pixel-space VAE: latents are the pixels, scaled to [-1, 1]."""
    try:
        import comfy.pixel_space_convert  # noqa: F401  since ComfyUI 0.3.60
    except ImportError:
        return older_vae()
    return comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})


class _Pixels(torch.nn.Module):
    """A network of a VAE that answers what it is given; latents and images are [B, 3, H, W] in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.pixel_space_vae = torch.nn.Parameter(torch.tensor(1.0))

    def encode(self, pixels: torch.Tensor, *_, **__) -> torch.Tensor:
        return pixels

    def decode(self, latents: torch.Tensor, *_, **__) -> torch.Tensor:
        return latents


def older_vae() -> comfy.sd.VAE:
    """The same for hosts that have no pixel-space VAE: their VAE of another kind, its network exchanged."""
    vae = comfy.sd.VAE(sd=comfy.taesd.taesd.TAESD().state_dict())
    vae.first_stage_model = _Pixels().train(False).requires_grad_(False).to(vae.vae_dtype)
    vae.patcher = comfy.model_patcher.ModelPatcher(vae.first_stage_model, load_device=vae.device,
                                                   offload_device=comfy.model_management.vae_offload_device())
    vae.downscale_ratio = vae.upscale_ratio = 1
    vae.latent_channels = vae.output_channels = 3
    vae.process_input, vae.process_output = (lambda image: image * 2 - 1), (lambda image: ((image + 1) / 2).clamp(0, 1))
    vae.memory_used_encode = vae.memory_used_decode = lambda shape, dtype: shape[2] * shape[3] * dtype.itemsize
    return vae


def empty_clip() -> comfy.sd.CLIP:
    """A stock CLIP (SD1 type) of the tiny size, weights still undefined."""
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    return comfy.sd.CLIP(target, tokenizer_data={"clip_l_max_length": TEXT_TOKENS},
                         model_options={"clip_l_model_config": dict(TEXT_CONFIG), "dtype": torch.float32})


def load_clip(path: Path | None = None) -> comfy.sd.CLIP:
    """The frozen random text encoder. Only the grammar's words have a row of their own; any other word is zero."""
    weights = comfy.utils.load_torch_file(str(path or TEXT_FILE), safe_load=True)
    clip = empty_clip()
    clip.cond_stage_model.clip_l.transformer.load_state_dict(with_token_table(weights))
    return clip


def with_token_table(kept: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a text encoder in float32, its kept rows laid out as CLIP's whole table; all other words are zero."""
    table = torch.zeros(VOCABULARY, kept["token_rows"].shape[1])
    table[kept["token_ids"].long()] = kept["token_rows"].float()
    return {TOKEN_TABLE: table, **{k: v.float() for k, v in kept.items() if not k.startswith("token_")}}


def save(path: Path, weights: dict[str, torch.Tensor], record: dict) -> None:
    """float16 weights with the record of their making; replaces the file in one step."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".tmp")
    kept = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in weights.items()}
    save_file(kept, str(part), {"training": json.dumps(record)})
    part.replace(path)


def training_record(path: Path) -> dict:
    """How the weights of a file were made: the JSON in its safetensors metadata."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        return json.loads((file.metadata() or {}).get("training", "{}"))
