"""One question to a small model: what the host answers, and one update that moves a policy's weights."""

from __future__ import annotations

from types import SimpleNamespace

import comfy.model_management
import comfy.sampler_helpers
import comfy.samplers
import torch
from posttrain.trainers.engine.update import Optimizer, update
from small_models import SIZE, conditioning, prompts_for


def inputs(kind: str, batch: int = 2):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, *SIZE[kind], generator=generator), torch.linspace(0.9, 0.3, batch)


def host_answer(model, kind: str, x, sigma, guidance: float, which: int = 1):
    """The denoised latents by the host's own sampling function, one prompt for the whole batch."""
    comfy.model_management.load_models_gpu([model])
    conds = {
        "positive": comfy.sampler_helpers.convert_cond(conditioning(kind, which)),
        "negative": comfy.sampler_helpers.convert_cond(conditioning(kind, 3)),
    }
    conds = comfy.samplers.process_conds(model.model, x, conds, x.device, latent_image=torch.zeros_like(x))
    model.pre_run()
    with torch.no_grad():
        return comfy.samplers.sampling_function(
            model.model, x, sigma, conds["negative"], conds["positive"], guidance, model_options=model.model_options
        )


def train_a_little(policy, kind: str):
    x, sigma = inputs(kind)

    def evaluate(net, bank, micro):
        return net.denoise(x, sigma, prompts_for(kind), [0, 1], 1.0, bank).square().mean(), {}

    return update(policy, [[SimpleNamespace(size=2)]], evaluate, Optimizer(learning_rate=1e-2))
