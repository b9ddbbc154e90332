"""Steps through sampler, decoder and reward, and the same by hand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from posttrain.nodes.prompts import encode_prompts
from posttrain.rewards.base.reward import RewardInfo
from posttrain.toy.models import load_clip, load_model, load_vae
from posttrain.toy.prompts import prompt_set
from posttrain.trainers.engine.reward_walk import Course
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.methods import Trainer, backprop_step
from posttrain.trainers.noise.streams import generator
from posttrain.trainers.policy import open_policy
from posttrain.trainers.prompts import PromptSet
from posttrain.trainers.sampling.settings import Sampling
from small_models import prompts_for, small_vae

STEPS = 3
SMALL = Sampling(steps=STEPS, width=64, height=64, prompts_per_iteration=2, images_per_prompt=1, batch_size=2, guidance=2.0)
TOY = Sampling(steps=8, width=24, height=24, prompts_per_iteration=8, images_per_prompt=1, batch_size=8)
RAW = Optimizer(max_grad_norm=0.0, weight_decay=0.0)


@dataclass(frozen=True)
class Smooth:
    """A smooth reward of no meaning: every pixel counts differently."""

    scale: float = 1.0
    info = RewardInfo("smooth", None, None, False, True, "")

    def __call__(self, images, prompts):
        weight = torch.randn(images.shape[1:], generator=generator(3))
        return self.scale * ((3 * images.double()).sin() * weight).flatten(1).sum(1)


@dataclass(frozen=True)
class Wording:
    """Reads the prompt: bright images for "light", dark ones for "dark"."""

    info = RewardInfo("wording", -1.0, 1.0, True, True, "")

    def __call__(self, images, prompts):
        sign = torch.tensor([1.0 if "light" in p.text else -1.0 for p in prompts])
        return images.mean((1, 2, 3)) * sign


def stepped(policy, kind: str, settings, sampling=SMALL, reward=Smooth(), optimizer=RAW, **options):
    return backprop_step(policy, prompts_for(kind), small_vae(kind), reward, sampling, Trainer(settings, optimizer), **options)


def gradient(policy) -> dict[str, torch.Tensor]:
    """What the only update so far was made of: AdamW's first moment is a tenth of it."""
    return {k.removesuffix(".exp_avg"): v.double() * 10 for k, v in policy.optimizer.items() if k.endswith(".exp_avg")}


def by_hand(policy, kind: str, kept: int, sampling=SMALL) -> dict[str, torch.Tensor]:
    """The gradient of DRaFT's loss in plain autograd, by Euler steps, the state cut off before the last ``kept``."""
    vae, prompts = small_vae(kind), prompts_for(kind)
    course = Course(policy, prompts, vae, Smooth(), sampling, 0)
    with open_policy(policy) as net:
        bank = net.to_device(policy.bank, train=True)

        def loss_of():
            sigmas = net.sigmas(sampling.scheduler, sampling.steps)
            x = net.start(course.samples.noise(slice(0, 2)).start(course.shape), float(sigmas[0]))
            for i in range(sampling.steps):
                if i == sampling.steps - kept:
                    x = x.detach()
                x0 = net.denoise(x, sigmas[i].expand(2), prompts, course.samples.index, sampling.guidance, bank)
                x = x + (sigmas[i + 1] - sigmas[i]) * (x - x0) / sigmas[i]
            pixels = vae.first_stage_model.decode(policy.model.model.process_latent_out(x))
            return -Smooth()((pixels.movedim(1, -1) + 1) / 2, ()).mean(), {}

        vae.first_stage_model.requires_grad_(False)
        net.gradients(loss_of, list(bank.values()))
        return {k: v.grad.double() for k, v in bank.items()}


def assert_close(ours: dict, theirs: dict, tolerance: float = 1e-4) -> None:
    assert ours.keys() == theirs.keys()
    largest = max(float(v.abs().max()) for v in theirs.values())
    assert largest > 0 and max(float((ours[k] - theirs[k]).abs().max()) for k in ours) < tolerance * largest


def dot(first: dict, second: dict) -> float:
    return sum(float((first[k] * second[k]).sum()) for k in first)


def demo_world():
    """The demo's flow model, eight of its prompts, its VAE."""
    prompts = PromptSet(prompt_set(held_out=False).prompts[:8])
    return load_model("flow"), encode_prompts(prompts, load_clip(), ""), load_vae()
