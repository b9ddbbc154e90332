"""A reward network in its holder, at the end of a gradient that comes from the policy: CLIP's network, random weights."""
from __future__ import annotations

import pytest
import torch

from posttrain.nodes.prompts import encode_prompts
from posttrain.rewards.combine import WeightedSum
from posttrain.rewards.colour import ColourReward
from posttrain.toy.models import load_clip, load_model, load_vae
from posttrain.toy.prompts import prompt_set
from posttrain.trainers.algorithms import Trainer, backprop_step
from posttrain.trainers.backprop import DRaFT
from posttrain.trainers.direct_align import SRPO
from posttrain.trainers.policy import Recipe, create_policy
from posttrain.trainers.prompts import PromptSet
from posttrain.trainers.sampling import Sampling
from posttrain.trainers.update import Optimizer

from .networks import tiny_open_clip
from .test_clip import reward_of, saved

SMALL = Sampling(steps=4, width=24, height=24, prompts_per_iteration=4, images_per_prompt=1, batch_size=4)


@pytest.fixture
def clip_reward(tmp_path):
    return reward_of(saved(tmp_path, tiny_open_clip(), "transformers"), batch_size=2)


@pytest.fixture(scope="module")
def demo():
    with torch.inference_mode():  # as the host's nodes make them
        return load_model("flow"), encode_prompts(PromptSet(prompt_set(held_out=False).prompts[:4]), load_clip(), ""), load_vae()


@pytest.mark.parametrize("settings", [DRaFT(), SRPO("a photo of", "a drawing of")])
def test_a_policy_follows_a_reward_network(demo, clip_reward, settings):
    model, prompts, vae = demo
    rewards, name = [], "relative_reward" if isinstance(settings, SRPO) else "reward_mean"
    with torch.inference_mode():
        policy = create_policy(model, Recipe(rank=4))
        for _ in range(8):
            policy, _ = backprop_step(policy, prompts, vae, clip_reward, SMALL, Trainer(settings, Optimizer(3e-3)))
            rewards.append(policy.metrics[name])
    assert policy.step == 8 and policy.metrics["grad_norm"] > 0
    assert rewards[-1] > rewards[0], rewards


def test_a_composite_of_network_and_statistic_has_a_gradient_from_both(demo, clip_reward):
    model, prompts, vae = demo
    both = WeightedSum(((clip_reward, 1.0), (ColourReward("brightness"), 1.0)))
    found = []
    for reward in (clip_reward, ColourReward("brightness"), both):
        new, _ = backprop_step(create_policy(model, Recipe(rank=4)), prompts, vae, reward, SMALL,
                               Trainer(DRaFT(), Optimizer(max_grad_norm=0.0)))
        found.append(torch.cat([v.flatten() for k, v in new.optimizer.items() if k.endswith("exp_avg")]))
    torch.testing.assert_close(found[2], found[0] + found[1], rtol=1e-4, atol=1e-7)
