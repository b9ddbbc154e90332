"""A small random-weight instance of every architecture that the host knows, built as the host builds its own: from the class
in ``comfy.supported_models`` that a checkpoint would be detected as. Those that
this host has stand beside those of small_models."""

from __future__ import annotations

import comfy.ldm.wan.vae
import comfy.model_patcher
import comfy.sd
import torch
from small_models import BUILD, CPU, OWN_TEXT, SIZE, random_weights, small_vae

from . import flux, hunyuan, images, newer, unets, videos
from .without_row import NO_ROW

__all__ = ("ALL", "HERE", "NEWER", "NO_ROW", "small_vae_of")
ALL = (*unets.ROWS, *images.ROWS, *flux.ROWS, *hunyuan.ROWS, *videos.ROWS, *newer.ROWS)
PIXELS = (*flux.PIXELS, *newer.PIXELS)  # these have no latents
NEWER = {each.name for each in newer.ROWS}
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
