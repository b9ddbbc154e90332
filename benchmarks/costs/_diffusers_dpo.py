"""Diffusion-DPO as people write it with diffusers and peft, on the weights of the network in ``_network``: the adapter off is the
reference, one batch of pairs, AdamW. From the paper's formula (arXiv:2311.12908), for its time alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from ._network import SHAPE, TEXT

BETA, RATE = 5000.0, 1e-4
LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]


def unet(ours: torch.nn.Module) -> torch.nn.Module:
    """diffusers' network with the weights of the host's ``ours``; KeyError where it is another one."""
    import comfy.utils
    from diffusers import UNet2DConditionModel

    theirs = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT,
        attention_head_dim=8,  # diffusers means the number of heads
    )
    names, known = comfy.utils.unet_to_diffusers(dict(SHAPE)), ours.state_dict()
    with torch.no_grad():
        for name, weight in theirs.state_dict().items():
            weight.copy_(known[names[name]])
    return theirs.requires_grad_(False)


def dpo(theirs: torch.nn.Module, pairs: torch.Tensor, texts: torch.Tensor, rank: int) -> tuple[Callable[[], None], int]:
    """(an update, the layers that it trains). pairs: latents [2, N, C, H, W], the better ones first; texts: [N, T, D]."""
    from diffusers import DDPMScheduler
    from peft import LoraConfig

    theirs.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=LAYERS))
    trained = [weight for weight in theirs.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE)
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    both = texts.repeat(2, 1, 1)

    def errors(noised: torch.Tensor, time: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Of the better ones less that of the worse ones."""
        better, worse = (theirs(noised, time, both).sample - noise).square().flatten(1).mean(1).chunk(2)
        return better - worse

    def step() -> None:
        count = pairs.shape[1]
        noise, time = torch.randn_like(pairs[0]).repeat(2, 1, 1, 1), torch.randint(0, 1000, (count,)).repeat(2)
        noised = schedule.add_noise(pairs.flatten(0, 1), noise, time)
        now = errors(noised, time, noise)
        with torch.no_grad():
            theirs.disable_adapters()
            before = errors(noised, time, noise)
            theirs.enable_adapters()
        F.logsigmoid(-0.5 * BETA * (now - before)).mean().neg().backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, len(trained) // 2
