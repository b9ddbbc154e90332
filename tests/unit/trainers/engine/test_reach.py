"""A trained layer that gets no gradient although the picture depends on it is named in the first step."""

from __future__ import annotations

import sys

import comfy.ldm.modules.attention
import pytest
import torch
from posttrain.rewards.base.reward import score_rollout
from posttrain.rewards.rules.colour import ColourReward
from posttrain.trainers.diffusion_dpo import DiffusionDPO
from posttrain.trainers.draft import DRaFT
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.feedback.pairs import preferences
from posttrain.trainers.flow_grpo import FlowGRPO
from posttrain.trainers.methods import METHODS, OWN_IMAGES, Trainer, backprop_step, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.policy import Recipe, create_policy
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import PlainVAE, prompts_for, small_model, small_vae

SAMPLING = Sampling(steps=3, width=32, height=32, prompts_per_iteration=1, images_per_prompt=4, batch_size=4)
REWARD = ColourReward("brightness")


@pytest.fixture
def without_backward(monkeypatch):
    """An attention that computes the same and passes no gradient on, in the networks' modules, where no override of the host
    sees it; so packs put one that patch the host."""
    original = comfy.ldm.modules.attention.optimized_attention
    for name, module in list(sys.modules.items()):
        for attribute, value in list(vars(module).items()) if name.startswith("comfy.ldm.") else ():
            if value is original:
                monkeypatch.setattr(module, attribute, lambda *args, **kwargs: original(*args, **kwargs).detach())


def stepped(model, kind: str, settings, recipe: Recipe):
    policy, prompts = create_policy(model, recipe), prompts_for(kind)
    trainer = Trainer(settings, Optimizer(learning_rate=1e-3))
    if METHODS[type(settings)].needs == OWN_IMAGES:
        return backprop_step(policy, prompts, small_vae(kind), REWARD, SAMPLING, trainer)[0]
    made = rollout(policy, prompts, PlainVAE(), SAMPLING)
    rule = preferences if isinstance(settings, DiffusionDPO) else advantages
    return train_step(policy, made, rule(score_rollout(REWARD, made)), trainer)


@pytest.mark.parametrize("settings", [FlowGRPO(), NFT(), DiffusionDPO(), DRaFT()], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("kind", ["sd15", "sd3", "flux"])
def test_an_attention_without_a_backward_is_named(without_backward, kind, settings):
    with pytest.raises(RuntimeError, match=r"does not reach \d+ of \d+ trained layers \(.*--use-sage-attention"):
        stepped(small_model(kind), kind, settings, Recipe(rank=2))


@pytest.mark.parametrize("settings", [FlowGRPO(), DRaFT()], ids=lambda s: type(s).__name__)
def test_a_layer_that_never_reaches_the_picture_is_no_fault(settings):
    model = small_model("sd3")
    model.model.diffusion_model.never_used = torch.nn.Linear(8, 8)
    new = stepped(model, "sd3", settings, Recipe(rank=2, targets="all linear layers"))
    assert new.metrics["updates"] == 1
    assert not new.bank["never_used.lora_B"].any() and any(w.any() for k, w in new.bank.items() if k.endswith("lora_B"))
