"""Policies, judges and contrasting images for step rewards and step rollouts."""

from __future__ import annotations

import torch
from posttrain.rewards.base.reward import RewardInfo, Scores
from posttrain.trainers.policy import Recipe, create_policy
from posttrain.trainers.sampling.rollout import Rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import SIZE, small_model

SMALL = Sampling(steps=4, width=64, height=64, prompts_per_iteration=2, images_per_prompt=4, batch_size=4)


class Brightness:
    """Higher = brighter: differs between candidates, and knows nothing of prompts."""

    info = RewardInfo("brightness", 0, 1, False, True, "mean of all pixels")

    def __call__(self, images, prompts):
        return images.mean((1, 2, 3))


def fresh_policy(kind: str):
    return create_policy(small_model(kind), Recipe(rank=4, targets="all linear layers and convolutions"))


def contrast(kind: str, prompts: int = 10, each: int = 6):
    """A rollout whose images differ in one direction that the pairs prefer. Each prompt of its own text."""
    from posttrain.rewards.base.reward import Prompt
    from posttrain.trainers.prompts import PromptSet
    from small_models import conditioning

    random = torch.Generator().manual_seed(2)
    amount = torch.linspace(-1, 1, each).repeat(prompts)
    pattern = torch.randn(SIZE[kind], generator=random)
    latents = 0.5 * torch.randn(prompts * each, *SIZE[kind], generator=random) + amount[:, None, None, None] * pattern
    index = torch.arange(prompts).repeat_interleave(each)
    texts = PromptSet(tuple(Prompt(str(i)) for i in range(prompts)), tuple(conditioning(kind, i) for i in range(prompts)))
    run = Rollout(
        latents,
        torch.zeros(len(index), 8, 8, 3),
        texts,
        index,
        torch.arange(len(index)),
        1.0,
        torch.linspace(1, 0, 9),
        None,
        16,
    )
    return run, Scores(amount.double(), index, {}, {})
