"""One picture of the demo's model with a LoRA: by ComfyUI's own sampler, and by diffusers' pipeline with the same file."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytest.importorskip("comfy.ldm.chroma_radiance", reason="older hosts than those of the small architectures")
import comfy.sample  # noqa: E402
import comfy.sd  # noqa: E402
import numpy as np  # noqa: E402
import safetensors.torch  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.modules.diffusionmodules.mmdit import get_2d_sincos_pos_embed_torch  # noqa: E402
from posttrain.tests.unit.trainers.policy.diffusers_families import TWINS, Twin, by_diffusers, diffusers_network  # noqa: E402
from posttrain.tests.unit.trainers.policy.diffusers_loras import weights_of  # noqa: E402
from posttrain.toy.models import FLOW_CONFIG, TEXT_WIDTH, load_clip, load_model, load_vae  # noqa: E402
from posttrain.trainers.policy import Recipe, create_policy, policy_as_model  # noqa: E402
from posttrain.trainers.policy.interchange import DIFFUSERS, lora_as  # noqa: E402

STEPS, GUIDANCE, SIDE, SHIFT = 8, 3.0, 24, 2.0
PATCHES, WIDTH = SIDE // FLOW_CONFIG["patch_size"], 64 * FLOW_CONFIG["depth"]
LEVELS = 255


def demo_twin() -> Twin:
    """SD3's class in the demo's size."""
    sd3 = TWINS["SD3, SD3.5"]
    config = dict(
        sample_size=SIDE,
        patch_size=FLOW_CONFIG["patch_size"],
        in_channels=3,
        out_channels=3,
        num_layers=FLOW_CONFIG["num_blocks"],
        attention_head_dim=64,
        num_attention_heads=FLOW_CONFIG["depth"],
        joint_attention_dim=TEXT_WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        pos_embed_max_size=PATCHES,
        qk_norm="rms_norm",
    )
    # by diffusers' converter: the host's table takes an SD3 to be as deep as it is wide
    return replace(sd3, here=replace(sd3.here, config=FLOW_CONFIG), config=config, convert=by_diffusers)


def policy_of_the_demo():
    policy = create_policy(load_model("flow"), Recipe(rank=4, alpha=6.0))
    generator = torch.Generator().manual_seed(7)
    for name, value in policy.bank.items():
        if name.endswith("lora_B"):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return policy


def encoded(clip, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        tokens, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
    return tokens.clone(), pooled.clone()


def comfyui_picture(model, positive, negative, noise: torch.Tensor) -> torch.Tensor:
    """[H, W, 3] in 0..1, as KSampler and VAE Decode make it."""
    conds = [[[tokens, {"pooled_output": pooled}]] for tokens, pooled in (positive, negative)]
    with torch.inference_mode():
        latents = comfy.sample.sample(
            model, noise, STEPS, GUIDANCE, "euler", "simple", *conds, torch.zeros_like(noise), disable_pbar=True, seed=0
        )
        return load_vae().decode(latents)[0].clone()


def diffusers_picture(pipeline, positive, negative, noise: torch.Tensor) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline(
        prompt_embeds=positive[0],
        pooled_prompt_embeds=positive[1],
        negative_prompt_embeds=negative[0],
        negative_pooled_prompt_embeds=negative[1],
        latents=noise,
        sigmas=np.linspace(1.0, 1 / STEPS, STEPS).tolist(),
        guidance_scale=GUIDANCE,
        height=SIDE * 8,
        width=SIDE * 8,
        output_type="latent",
    ).images
    return (latents[0].movedim(0, -1) / 2 + 0.5).clamp(0, 1)


def test_a_picture_of_the_demo_is_the_same_in_diffusers(tmp_path):
    twin, policy, clip = demo_twin(), policy_of_the_demo(), load_clip()
    weights = weights_of(policy.model)
    weights["pos_embed"] = get_2d_sincos_pos_embed_torch(WIDTH, PATCHES, PATCHES)[None]  # made by ComfyUI, read by diffusers
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=diffusers_network(twin, weights),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        **dict.fromkeys(["vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3"]),
    )
    positive, negative = encoded(clip, "two red balls and one blue ball"), encoded(clip, "")
    noise = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    plain = comfyui_picture(policy.model, positive, negative, noise)
    assert (diffusers_picture(pipeline, positive, negative, noise) - plain).abs().max() <= 1 / LEVELS
    trained = comfyui_picture(policy_as_model(policy), positive, negative, noise)
    assert (trained - plain).abs().max() > 50 / LEVELS
    safetensors.torch.save_file(lora_as(policy, DIFFUSERS), tmp_path / "lora.safetensors")
    pipeline.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")
    found = diffusers_picture(pipeline, positive, negative, noise)
    assert (found - trained).abs().max() <= 1 / LEVELS
