"""Small networks of diffusers beside ComfyUI's of the same weights: UNets, and Flux, whose layers are fused in ComfyUI only."""

from __future__ import annotations

import comfy.model_patcher
import comfy.supported_models as supported
import comfy.utils
import torch

CPU = torch.device("cpu")
CONTEXT, GUIDANCE = 32, 4.0
BLOCKS = dict(
    image_size=32,
    in_channels=4,
    out_channels=4,
    model_channels=32,
    num_res_blocks=[1, 1],
    channel_mult=[1, 2],
    transformer_depth=[0, 1],
    transformer_depth_output=[0, 0, 1, 1],
    transformer_depth_middle=1,
    context_dim=CONTEXT,
    use_temporal_attention=False,
    num_heads=8,
    num_head_channels=-1,
    use_spatial_transformer=True,
    legacy=False,
)
_SD15 = {**BLOCKS, "use_linear_in_transformer": False, "adm_in_channels": None}
_SDXL = {**BLOCKS, "use_linear_in_transformer": True, "adm_in_channels": 80, "num_classes": "sequential"}
_FLUX = dict(
    image_model="flux",
    in_channels=16,
    out_channels=16,
    patch_size=2,
    vec_in_dim=24,
    context_in_dim=CONTEXT,
    hidden_size=64,
    mlp_ratio=4.0,
    num_heads=4,
    depth=2,
    depth_single_blocks=2,
    axes_dim=[4, 6, 6],
    theta=10000,
    qkv_bias=True,
    guidance_embed=True,
)


def sd15():
    return _unet(linear=False), _filled(supported.SD15(dict(_SD15)), _unet(linear=False), comfy.utils.unet_to_diffusers(_SD15))


def sdxl():
    more = dict(addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=80)
    both = _unet(linear=True, **more), _unet(linear=True, **more)
    return both[0], _filled(supported.SDXL(dict(_SDXL)), both[1], comfy.utils.unet_to_diffusers(_SDXL))


def flux():
    from diffusers import FluxTransformer2DModel
    from small_models import NEWER_FLUX, random_weights

    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        joint_attention_dim=CONTEXT,
        pooled_projection_dim=24,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    random_weights(transformer, 3)
    config = {**_FLUX, **NEWER_FLUX}
    return transformer.eval(), _filled(supported.Flux(config), transformer, comfy.utils.flux_to_diffusers(config))


def _unet(linear: bool, **more):
    from diffusers import UNet2DConditionModel
    from small_models import random_weights

    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=CONTEXT,
        attention_head_dim=1 if linear else 8,  # diffusers means the number of heads
        norm_num_groups=32,
        use_linear_projection=linear,
        **more,
    )
    random_weights(unet, 3)
    return unet.eval()


def _filled(config, theirs, names: dict):
    """A ModelPatcher of the host with the weights of diffusers' network, by the host's own map."""
    config.unet_config["dtype"] = torch.float32
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, device=CPU)
    ours = model.diffusion_model.state_dict()
    with torch.no_grad():
        for name, value in theirs.state_dict().items():
            key, place, turned = (*names[name], None, None)[:3] if isinstance(names[name], tuple) else (names[name], None, None)
            value = value if turned is None else turned(value)
            (ours[key] if place is None else ours[key].narrow(*place)).copy_(value)
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def _inputs(*shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def their_answer(kind: str, network) -> torch.Tensor:
    """Of diffusers' network on one fixed input, in ComfyUI's layout."""
    context, time = _inputs(1, 7, CONTEXT, seed=6), torch.tensor([500.0])
    with torch.no_grad():
        if kind == "flux":
            tokens = _inputs(1, 16, 8, 8).view(1, 16, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 16, 64)
            places = torch.zeros(4, 4, 3)
            places[..., 1], places[..., 2] = torch.arange(4)[:, None], torch.arange(4)[None]
            answer = network(
                hidden_states=tokens,
                encoder_hidden_states=context,
                pooled_projections=_inputs(1, 24, seed=7),
                timestep=time / 1000,
                img_ids=places.view(16, 3),
                txt_ids=torch.zeros(7, 3),
                guidance=torch.tensor([GUIDANCE]),
            ).sample
            return answer.view(1, 4, 4, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 16, 8, 8)
        added = {"text_embeds": _inputs(1, 32, seed=7), "time_ids": torch.ones(1, 6)} if kind == "sdxl" else None
        return network(_inputs(1, 4, 8, 8), time, context, added_cond_kwargs=added).sample


def our_answer(kind: str, model) -> torch.Tensor:
    """Of ComfyUI's network with all patches of the MODEL, on the same input."""
    import comfy.model_management

    context, time = _inputs(1, 7, CONTEXT, seed=6), torch.tensor([500.0])
    comfy.model_management.load_models_gpu([model])
    network = model.model.diffusion_model
    try:
        with torch.inference_mode():
            if kind == "flux":
                return network(
                    _inputs(1, 16, 8, 8), time / 1000, context, _inputs(1, 24, seed=7), guidance=torch.tensor([GUIDANCE])
                )
            if kind == "sdxl":
                from comfy.ldm.modules.diffusionmodules.util import timestep_embedding

                size = timestep_embedding(torch.ones(6), 8).reshape(1, -1)
                return network(_inputs(1, 4, 8, 8), time, context=context, y=torch.cat([_inputs(1, 32, seed=7), size], 1))
            return network(_inputs(1, 4, 8, 8), time, context=context)
    finally:
        comfy.model_management.unload_all_models()


TWINS = {"sd15": sd15, "sdxl": sdxl, "flux": flux}
