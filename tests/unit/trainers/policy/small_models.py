"""Small random-weight instances of ComfyUI's real network modules, one of each kind that the pack is tested on."""
from __future__ import annotations

import comfy.ldm.flux.model
import comfy.model_base
import comfy.model_patcher
import comfy.sd
import comfy.supported_models as supported
import torch

CPU = torch.device("cpu")
# hosts since Flux.2 want to be told which axes of the text have positions, and the older ones refuse to be
NEWER_FLUX = {"txt_ids_dims": []} if "txt_ids_dims" in comfy.ldm.flux.model.FluxParams.__dataclass_fields__ else {}
UNET = dict(image_size=32, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[1, 1], channel_mult=[1, 2],
            transformer_depth=[0, 1], transformer_depth_output=[0, 0, 1, 1], transformer_depth_middle=1, context_dim=32,
            use_temporal_attention=False, num_heads=4, num_head_channels=-1, use_spatial_transformer=True, legacy=False)
SIZE = {"sd15": (4, 8, 8), "sd2_v": (4, 8, 8), "sdxl": (4, 8, 8), "sd3": (16, 8, 8), "flux": (16, 8, 8), "lumina": (16, 8, 8)}


def _sd15():
    return supported.SD15({**UNET, "use_linear_in_transformer": False, "adm_in_channels": None})


def _sd2_v():
    return supported.SD20({**UNET, "use_linear_in_transformer": True, "adm_in_channels": None})


def _sdxl():
    return supported.SDXL({**UNET, "use_linear_in_transformer": True, "adm_in_channels": 2816, "num_classes": "sequential"})


def _sd3():
    return supported.SD3(dict(
        in_channels=16, out_channels=16, patch_size=2, depth=2, input_size=None, adm_in_channels=64, qk_norm="rms",
        num_blocks=2, x_block_self_attn_layers=[0], pos_embed_scaling_factor=None, pos_embed_max_size=16,
        context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 32, "out_features": 128}}))


def small_flux(**other):
    return supported.Flux({**dict(
        image_model="flux", in_channels=16, out_channels=16, patch_size=2, vec_in_dim=64, context_in_dim=32,
        hidden_size=64, mlp_ratio=2.0, num_heads=4, depth=2, depth_single_blocks=2, axes_dim=[4, 6, 6], theta=10000,
        qkv_bias=True, guidance_embed=True, **NEWER_FLUX), **other})


def _lumina():
    return supported.Lumina2(dict(
        image_model="lumina2", in_channels=16, patch_size=2, dim=64, cap_feat_dim=32, n_layers=2, n_refiner_layers=1,
        n_heads=4, n_kv_heads=2, qk_norm=True, axes_dims=[4, 6, 6], axes_lens=[64, 64, 64]))


BUILD = {"sd15": _sd15, "sd2_v": _sd2_v, "sdxl": _sdxl, "sd3": _sd3, "flux": small_flux, "lumina": _lumina}
ARCHITECTURES = tuple(BUILD)
OWN_TEXT: dict = {}  # kind -> (seed, tokens) -> CONDITIONING, of kinds that other files of the tests add


def random_weights(network: torch.nn.Module, seed: int) -> None:
    """Such that activations neither grow nor vanish."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 1
            scale = fan ** -0.5 if parameter.ndim > 1 else 0.1
            values = torch.randn(parameter.shape, generator=generator) * scale
            if parameter.ndim == 1 and name.endswith("weight"):
                values = values + 1
            parameter.copy_(values.to(parameter.dtype))


def small_model(kind: str, dtype: torch.dtype = torch.float32, compute: torch.dtype | None = None, seed: int = 0):
    """A ModelPatcher around a small network; compute: the dtype that weights are cast to in the forward."""
    config = BUILD[kind]()
    config.unet_config["dtype"] = dtype
    config.set_inference_dtype(dtype, compute)
    model_type = comfy.model_base.ModelType.V_PREDICTION if kind == "sd2_v" else None
    model = config.get_model({}, device=CPU)
    if model_type is not None:
        model = comfy.model_base.BaseModel(config, model_type=model_type, device=CPU)
    random_weights(model.diffusion_model, seed)
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def conditioning(kind: str, seed: int = 0, tokens: int = 6):
    """A CONDITIONING as the model's text encoder would give it."""
    if kind in OWN_TEXT:
        return OWN_TEXT[kind](seed, tokens)
    generator = torch.Generator().manual_seed(1000 + seed)
    pooled = {"sdxl": 1280}.get(kind, 64)
    extra = {"pooled_output": torch.randn(1, pooled, generator=generator)}
    if kind == "flux":
        extra["guidance"] = 4.0  # the host takes it times 1000, in the weights' type: 3.5 is another number in bfloat16
    if kind == "lumina":
        extra["attention_mask"] = torch.ones(1, tokens, dtype=torch.long)
    return [[torch.randn(1, tokens, 32, generator=generator), extra]]


class PlainVAE:
    """Stands where a VAE would in tests of sampling: the first three latent channels are the picture."""

    def spacial_compression_decode(self):
        return 8

    def decode(self, latents):
        return latents[:, :3].movedim(1, -1).sigmoid()


def prompts_for(kind: str, lengths=(6, 6)):
    """Two encoded prompts with this many tokens, and a negative one."""
    from posttrain.rewards.base.reward import Prompt
    from posttrain.trainers.prompts import PromptSet
    return PromptSet((Prompt("one"), Prompt("two")),
                     (conditioning(kind, 1, lengths[0]), conditioning(kind, 2, lengths[1])), conditioning(kind, 3))


def trained_policy(kind: str, dtype=torch.float32, compute=None, scale: float = 0.05, rank: int = 4):
    """A policy whose bank is not at its start, so that gradients reach A as well as B."""
    from posttrain.trainers.policy import Recipe, create_policy
    return off_its_start(create_policy(small_model(kind, dtype, compute),
                                       Recipe(rank=rank, targets="all linear layers and convolutions")), scale)


def off_its_start(policy, scale: float, seed: int = 7):
    """The policy, in whose bank B is no longer zero."""
    generator = torch.Generator().manual_seed(seed)
    for key, value in policy.bank.items():
        if key.endswith("lora_B"):
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
    return policy


def small_vae(kind: str, dtype: torch.dtype = torch.float32):
    """ComfyUI's own VAE for the model's latents, with random weights; 64 pixels make 8 latent ones."""
    channels = SIZE[kind][0]
    shape = dict(double_z=True, z_channels=channels, resolution=64, in_channels=3, out_ch=3, ch=32, ch_mult=[1, 1, 1, 1],
                 num_res_blocks=1, attn_resolutions=[], dropout=0.0)
    vae = comfy.sd.VAE(sd={}, config={"params": {"ddconfig": shape, "embed_dim": channels}}, device=CPU, dtype=dtype)
    generator = torch.Generator().manual_seed(17)
    with torch.no_grad():
        for name, parameter in vae.first_stage_model.named_parameters():
            values = torch.randn(parameter.shape, generator=generator)
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.copy_(values * scale + (1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0))
        vae.first_stage_model.decoder.conv_out.weight.mul_(0.1)  # no pixel as far as black or white
    return vae
