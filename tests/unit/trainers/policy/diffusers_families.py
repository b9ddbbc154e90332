"""diffusers' network beside ComfyUI's, small, with the same weights: one twin of each family that both have.

``register`` puts ComfyUI's halves beside the kinds of small_models, under the families' names. Weights go over by the host's
own table of names where it has one, and by diffusers' own converter of single files where it has not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import comfy.model_management
import comfy.utils
import torch
from architectures import HERE
from architectures.declared import Architecture
from host_sampler import sampled
from small_models import BUILD, OWN_TEXT, SIZE, UNET, small_model

WEIGHTS = dict[str, torch.Tensor]
PICTURE = 8  # pixels to a latent


@dataclass(frozen=True)
class Twin:
    """here: ComfyUI's half; kind, config: diffusers' class and how it is made as small; convert: ComfyUI's weights under
    diffusers' names; ask: diffusers' answer to what ComfyUI hands its own network; pipeline: whose loader reads LoRAs."""

    here: Architecture
    kind: str
    config: dict
    convert: Callable[[Twin, WEIGHTS], WEIGHTS]
    ask: Callable
    pipeline: str

    @property
    def name(self) -> str:
        return self.here.name

    @property
    def prefix(self) -> str:
        """Of its weights in a LoRA file of diffusers."""
        return "unet" if self.kind == "UNet2DConditionModel" else "transformer"


def _by_host(table: Callable) -> Callable[[Twin, WEIGHTS], WEIGHTS]:
    """By the table that the host keeps to read diffusers' checkpoints and LoRAs, read backwards."""

    def convert(twin: Twin, weights: WEIGHTS) -> WEIGHTS:
        found = {}
        for theirs, ours in table(twin.here.config).items():
            name, part, change = ours if isinstance(ours, tuple) and len(ours) == 3 else (*_pair(ours), None)
            if name in weights:
                value = weights[name] if part is None else weights[name].narrow(*part)
                found[theirs] = value if change is None else change(value)
        return found

    return convert


def _pair(entry) -> tuple:
    return entry if isinstance(entry, tuple) else (entry, None)


def by_diffusers(twin: Twin, weights: WEIGHTS) -> WEIGHTS:
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    return SINGLE_FILE_LOADABLE_CLASSES[twin.kind]["checkpoint_mapping_fn"](dict(weights))


def _lumina(twin: Twin, weights: WEIGHTS) -> WEIGHTS:
    """Its converter knows the published width alone, so the fused layers are cut before it."""
    heads, kv, width = (twin.here.config[key] for key in ("n_heads", "n_kv_heads", "dim"))
    sizes = [width, width // heads * kv, width // heads * kv]
    cut = {}
    for name, value in weights.items():
        if ".qkv." in name:
            cut |= {name.replace("qkv", part): piece for part, piece in zip(("to_q", "to_k", "to_v"), value.split(sizes))}
        else:
            cut[name] = value
    return by_diffusers(twin, cut)


def _chroma(twin: Twin, weights: WEIGHTS) -> WEIGHTS:
    """Flux's names, and those of what stands for Flux's modulations."""
    changes = {"in_layer": "linear_1", "out_layer": "linear_2", ".scale": ".weight"}
    found = _by_host(comfy.utils.flux_to_diffusers)(twin, weights)
    for name, value in weights.items():
        if name.startswith("distilled_guidance_layer"):
            for ours, theirs in changes.items():
                name = name.replace(ours, theirs)
            found[name] = value
    return found


def _packed(x: torch.Tensor) -> torch.Tensor:
    """[B, C, H, W] as tokens of 2 x 2 latents: [B, H/2 * W/2, 4 C]."""
    return torch.nn.functional.pixel_unshuffle(x, 2).flatten(2).mT


def _unpacked(tokens: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    height, width = like.shape[-2] // 2, like.shape[-1] // 2
    return torch.nn.functional.pixel_shuffle(tokens.mT.unflatten(2, (height, width)), 2)


def _places(height: int, width: int, axes: int) -> torch.Tensor:
    """Ids of an image's tokens: row and column on the second and third axis."""
    ids = torch.zeros(height, width, axes)
    ids[..., 1], ids[..., 2] = torch.arange(height)[:, None], torch.arange(width)[None]
    return ids.flatten(0, 1)


def _ask_unet(net, x, t, context, **_):
    return net(x, t, context).sample


def _ask_sdxl(net, x, t, context, y, **_):
    size = [x.shape[2] * PICTURE, x.shape[3] * PICTURE]
    times = torch.tensor([[*size, 0, 0, *size]], dtype=x.dtype).repeat(len(x), 1)
    return net(x, t, context, added_cond_kwargs={"text_embeds": y[:, :1280], "time_ids": times}).sample


def _ask_sd3(net, x, t, context, y, **_):
    return net(x, context, y, t).sample


def _ask_auraflow(net, x, t, context, **_):
    return net(x, context, t).sample


def _ask_pixart(net, x, t, context, c_size, c_ar, **_):
    more = (
        {"resolution": c_size, "aspect_ratio": c_ar}
        if net.config.use_additional_conditions
        else {"resolution": None, "aspect_ratio": None}
    )
    return net(x, context, t, more).sample.chunk(2, 1)[0]


def _ask_flux(net, x, t, context, y=None, guidance=None, **_):
    ids = {"img_ids": _places(x.shape[2] // 2, x.shape[3] // 2, 3), "txt_ids": torch.zeros(context.shape[1], 3)}
    more = {"pooled_projections": y, "guidance": guidance if net.config.guidance_embeds else None}
    return _unpacked(net(_packed(x), context, timestep=t, **ids, **more).sample, x)


def _ask_chroma(net, x, t, context, **_):
    ids = {"img_ids": _places(x.shape[2] // 2, x.shape[3] // 2, 3), "txt_ids": torch.zeros(context.shape[1], 3)}
    return _unpacked(net(_packed(x), context, timestep=t, **ids).sample, x)


def _ask_flux2(net, x, t, context, guidance, **_):
    text = torch.zeros(context.shape[1], 4)
    text[:, 3] = torch.arange(context.shape[1])
    tokens = net(x.flatten(2).mT, context, t, _places(*x.shape[2:], 4), text, guidance).sample
    return tokens.mT.unflatten(2, x.shape[2:])


def _ask_lumina(net, x, t, context, **_):
    return -net(x, 1 - t, context, torch.ones(context.shape[:2], dtype=torch.bool)).sample


def _ask_z_image(net, x, t, context, **_):
    return -torch.stack(net(list(x.unsqueeze(2)), 1 - t, list(context)).sample).squeeze(2)


def _ask_qwen(net, x, t, context, **_):
    x = x.squeeze(2)
    shapes = [[(1, x.shape[2] // 2, x.shape[3] // 2)]] * len(x)
    mask = torch.ones(context.shape[:2], dtype=torch.long)
    return _unpacked(net(_packed(x), context, mask, t, shapes).sample, x).unsqueeze(2)


def _ask_hidream(net, x, t, context, y, encoder_hidden_states_llama3, **_):
    return -net(x, t, context, encoder_hidden_states_llama3.movedim(1, 0), y).sample


def _ask_wan(net, x, t, context, **_):
    return net(x, t, context).sample


def _of(name: str, **changes) -> Architecture:
    """This architecture's small instance, beside the one that has its name."""
    each = HERE[name]
    return replace(each, name=f"twin of {name}", config={**each.config, **changes})


def _unet(name: str, linear: bool, pipeline: str, ask=_ask_unet, **more) -> Twin:
    config = dict(
        block_out_channels=(64, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=UNET["num_heads"],  # diffusers' old name for their number
        use_linear_projection=linear,
        **more,
    )
    return Twin(_of(name), "UNet2DConditionModel", config, _by_host(comfy.utils.unet_to_diffusers), ask, pipeline)


_FLUX = dict(
    patch_size=1,
    in_channels=64,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=4,
    joint_attention_dim=32,
    axes_dims_rope=(4, 6, 6),
)
_PIXART = dict(
    num_attention_heads=4,
    attention_head_dim=24,
    num_layers=2,
    cross_attention_dim=96,
    sample_size=64,  # ComfyUI takes the multiple of 64 latents nearest to the picture for the grid of the places
    caption_channels=32,
    interpolation_scale=1,
)


def _twins() -> dict[str, Callable[[], Twin]]:
    def by(table):
        return _by_host(getattr(comfy.utils, table))

    return {
        "SD1.5": lambda: _unet("SD1.5", False, "StableDiffusionPipeline"),
        "SD2": lambda: _unet("SD2", True, "StableDiffusionPipeline"),
        "SDXL": lambda: _unet(
            "SDXL",
            True,
            "StableDiffusionXLPipeline",
            _ask_sdxl,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        ),
        "SD3, SD3.5": lambda: Twin(
            _of("SD3, SD3.5", num_patches=256),
            "SD3Transformer2DModel",
            dict(
                sample_size=16,
                num_layers=2,
                attention_head_dim=64,
                num_attention_heads=2,
                joint_attention_dim=32,
                caption_projection_dim=128,
                pooled_projection_dim=64,
                pos_embed_max_size=16,
                dual_attention_layers=(0,),
                qk_norm="rms_norm",
            ),
            by("mmdit_to_diffusers"),
            _ask_sd3,
            "StableDiffusion3Pipeline",
        ),
        "Flux": lambda: Twin(
            _of("Flux", mlp_ratio=4.0),
            "FluxTransformer2DModel",
            dict(**_FLUX, pooled_projection_dim=64, guidance_embeds=True),
            by("flux_to_diffusers"),
            _ask_flux,
            "FluxPipeline",
        ),
        "Flux.2": lambda: Twin(
            _of("Flux.2"),
            "Flux2Transformer2DModel",
            dict(
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=4,
                joint_attention_dim=32,
                axes_dims_rope=(4, 4, 4, 4),
            ),
            by_diffusers,
            _ask_flux2,
            "Flux2Pipeline",
        ),
        "Lumina 2": lambda: Twin(
            _of("Lumina 2"),
            "Lumina2Transformer2DModel",
            dict(
                hidden_size=64,
                num_layers=2,
                num_refiner_layers=1,
                num_attention_heads=4,
                num_kv_heads=2,
                multiple_of=32,
                axes_dim_rope=(4, 6, 6),
                axes_lens=(64, 64, 64),
                cap_feat_dim=32,
            ),
            _lumina,
            _ask_lumina,
            "Lumina2Pipeline",
        ),
        "Z-Image": lambda: Twin(
            _of("Z-Image", dim=1032, n_heads=6, n_kv_heads=6, axes_dims=[60, 56, 56], n_layers=1),
            "ZImageTransformer2DModel",
            dict(
                dim=1032,
                n_layers=1,
                n_refiner_layers=1,
                n_heads=6,
                n_kv_heads=6,
                cap_feat_dim=32,
                axes_dims=[60, 56, 56],
                axes_lens=[64, 64, 64],
            ),
            by_diffusers,
            _ask_z_image,
            "ZImagePipeline",
        ),
        "Qwen-Image": lambda: Twin(
            _of("Qwen-Image"),
            "QwenImageTransformer2DModel",
            dict(num_layers=2, attention_head_dim=16, num_attention_heads=4, joint_attention_dim=32, axes_dims_rope=(4, 6, 6)),
            by_diffusers,
            _ask_qwen,
            "QwenImagePipeline",
        ),
        "AuraFlow": lambda: Twin(
            _of("AuraFlow", global_conddim=64),
            "AuraFlowTransformer2DModel",
            dict(
                sample_size=8,
                num_mmdit_layers=2,
                num_single_dit_layers=2,
                attention_head_dim=16,
                num_attention_heads=4,
                joint_attention_dim=32,
                caption_projection_dim=64,
                pos_embed_max_size=64,
            ),
            by("auraflow_to_diffusers"),
            _ask_auraflow,
            "AuraFlowPipeline",
        ),
        "PixArt alpha": lambda: Twin(
            _of("PixArt alpha", mlp_ratio=4.0),
            "PixArtTransformer2DModel",
            dict(**_PIXART, use_additional_conditions=True),
            by("pixart_to_diffusers"),
            _ask_pixart,
            "PixArtAlphaPipeline",
        ),
        "PixArt sigma": lambda: Twin(
            _of("PixArt sigma", mlp_ratio=4.0),
            "PixArtTransformer2DModel",
            dict(**_PIXART, use_additional_conditions=False),
            by("pixart_to_diffusers"),
            _ask_pixart,
            "PixArtSigmaPipeline",
        ),
        "HiDream": lambda: Twin(
            _of("HiDream"),
            "HiDreamImageTransformer2DModel",
            dict(
                patch_size=2,
                in_channels=16,
                num_layers=2,
                num_single_layers=2,
                attention_head_dim=16,
                num_attention_heads=4,
                caption_channels=[32] * 5,
                text_emb_dim=64,
                num_routed_experts=2,
                num_activated_experts=1,
                axes_dims_rope=(8, 4, 4),
                max_resolution=(32, 32),
                llama_layers=[0, 1, 1, 0],
                force_inference_output=True,
            ),
            by_diffusers,
            _ask_hidream,
            "HiDreamImagePipeline",
        ),
        "Chroma": lambda: Twin(
            # ComfyUI's network asks for the published number of modulations, whatever its depth
            _of("Chroma", mlp_ratio=4.0, depth=19, depth_single_blocks=38),
            "ChromaTransformer2DModel",
            dict(
                **{**_FLUX, "num_layers": 19, "num_single_layers": 38},
                approximator_num_channels=64,
                approximator_hidden_dim=32,
                approximator_layers=2,
            ),
            _chroma,
            _ask_chroma,
            "ChromaPipeline",
        ),
        "Wan 2.1": lambda: Twin(
            _of("Wan 2.1"),
            "WanTransformer3DModel",
            dict(num_attention_heads=2, attention_head_dim=24, text_dim=32, freq_dim=32, ffn_dim=64, num_layers=2),
            by_diffusers,
            _ask_wan,
            "WanPipeline",
        ),
    }


TWINS = {name: make() for name, make in _twins().items() if name in HERE}  # older hosts have fewer


def register() -> None:
    for twin in TWINS.values():
        BUILD[twin.name], SIZE[twin.name], OWN_TEXT[twin.name] = twin.here.build, twin.here.latent, twin.here.conditioning


register()


def comfyui_model(twin: Twin):
    """ComfyUI's half as a MODEL, with random weights."""
    model = small_model(twin.name)
    places = getattr(model.model.diffusion_model, "pos_embed", None)  # a checkpoint brings SD3's
    if isinstance(places, torch.Tensor):
        places.copy_(torch.randn(places.shape, generator=torch.Generator().manual_seed(5)))
    return model


@dataclass(frozen=True)
class Question:
    """What ComfyUI's sampler handed its network once, and its answer."""

    x: torch.Tensor
    t: torch.Tensor
    rest: dict
    answer: torch.Tensor


@contextlib.contextmanager
def seen_by(network: torch.nn.Module) -> Iterator[list[Question]]:
    """Every question to ComfyUI's network from here on, with its answer."""
    seen: list[Question] = []

    def keep(_, arguments, words, answer):
        x, t = (value.detach().clone() for value in arguments[:2])
        rest = {name: value for name, value in words.items() if name not in ("control", "transformer_options")}
        seen.append(Question(x, t, rest, answer.detach().clone()))

    hook = network.register_forward_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def questions(model, twin: Twin, steps: int = 2) -> list[Question]:
    """Of a whole sampling by the host, without guidance."""
    try:
        with seen_by(model.model.diffusion_model) as seen:
            sampled(model, twin.name, 1.0, steps)
    finally:
        comfy.model_management.unload_all_models()  # takes the patches out of the weights, which others share
    return seen


def diffusers_network(twin: Twin, weights: WEIGHTS) -> torch.nn.Module:
    """diffusers' half with ComfyUI's weights. RuntimeError where it has weights that ComfyUI's has not."""
    import diffusers

    network = getattr(diffusers, twin.kind)(**twin.config)
    wanted = network.state_dict()
    # one of the host's tables serves several networks; what of these weights went nowhere shows in the answers
    converted = {name: value.clone() for name, value in twin.convert(twin, weights).items() if name in wanted}
    network.load_state_dict(converted)
    return network.eval()


def answer(network, twin: Twin, question: Question) -> torch.Tensor:
    with torch.no_grad():
        return twin.ask(network, question.x, question.t, **question.rest)
