"""Small rollouts and their advantages."""

from __future__ import annotations

from dataclasses import replace

from posttrain.rewards.base.reward import Scores
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import PlainVAE, prompts_for, trained_policy

SMALL = Sampling(steps=4, width=64, height=64, prompts_per_iteration=2, images_per_prompt=4, batch_size=4)


def made(kind: str, policy=None, **settings):
    policy = policy or trained_policy(kind)
    return policy, rollout(policy, prompts_for(kind), PlainVAE(), replace(SMALL, **settings), 0)


def feedback(run, rule="group mean, global std"):
    values = run.images.mean((1, 2, 3)).double()
    return advantages(Scores(values, run.index, {}, {}), rule)
