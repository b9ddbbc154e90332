"""TRL's DDPO trainer on the weights of the network in ``_network``, a pipeline of small random parts around them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from tempfile import mkdtemp
from typing import Any

import torch

from tools import pack

from ._network import TEXT, TOKENS

RATE, RANK = 1e-4, 4


def trainer(theirs: torch.nn.Module, batch: int, batches: int, steps: int) -> Any:
    """Of diffusers' network ``theirs``, with TRL's LoRA of RANK on it; sampled without guidance."""
    import accelerate
    import trl.models.modeling_sd_base as models
    from trl.trainer.ddpo_config import DDPOConfig
    from trl.trainer.ddpo_trainer import DDPOTrainer

    accelerate.PartialState(cpu=True)
    whole = models.DefaultDDPOStableDiffusionPipeline.__new__(models.DefaultDDPOStableDiffusionPipeline)
    whole.use_lora, whole.sd_pipeline = True, pipeline(theirs)
    whole.sd_pipeline.set_progress_bar_config(disable=True)
    whole.sd_pipeline._encode_prompt = lambda *_, prompt_embeds=None, **__: (
        prompt_embeds
    )  # guidance 1 asks without the negative
    config = DDPOConfig(
        seed=1,
        log_with=None,
        mixed_precision="no",
        allow_tf32=False,
        sample_num_steps=steps,
        sample_guidance_scale=1.0,
        sample_batch_size=batch,
        sample_num_batches_per_epoch=batches,
        train_batch_size=batch,
        train_gradient_accumulation_steps=batches,
        train_cfg=False,
        train_learning_rate=RATE,
        project_kwargs={"project_dir": mkdtemp()},
    )
    number = itertools.count()
    return DDPOTrainer(
        config,
        lambda images, *_: (images.float().mean((1, 2, 3)), {}),
        lambda: (f"a ball {next(number) % 8}", {}),
        whole,
    )


def pipeline(theirs: torch.nn.Module):
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    vocabulary = pack.module("rewards.learned.holder").clip_tokenizer_folder()
    vae = AutoencoderKL(
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
    )
    text = CLIPTextModel(CLIPTextConfig(hidden_size=TEXT, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4))
    schedule = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    for part in (vae, text, theirs):
        part.requires_grad_(False)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=CLIPTokenizer.from_pretrained(vocabulary, model_max_length=TOKENS),
        unet=theirs,
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def update(made: Any, batch: int, batches: int) -> Callable[[], object]:
    """An update of the trainer's on what it has sampled itself, all its steps, advantages at random."""
    with torch.no_grad():
        drawn, _ = made._generate_samples(batches, batch)
    random = torch.Generator().manual_seed(1)
    for sample in drawn:
        sample["advantages"] = torch.randn(batch, generator=random)
    return lambda: made._train_batched_samples(0, 0, 0, drawn)
