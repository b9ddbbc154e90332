"""A rollout without random steps and its advantages."""

from __future__ import annotations

from dataclasses import replace

import torch
from posttrain.rewards.base.reward import Scores
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import PlainVAE, prompts_for, trained_policy

SMALL = Sampling(
    steps=6, width=64, height=64, prompts_per_iteration=2, images_per_prompt=4, batch_size=4, transition="deterministic"
)
WHOLE_GROUPS = replace(SMALL, steps=10, batch_size=8)


def scored_rollout(kind: str):
    """(policy, rollout, advantages): brighter images are better."""
    policy = trained_policy(kind)
    run = rollout(policy, prompts_for(kind), PlainVAE(), SMALL, 0)
    scores = Scores(run.images.mean((1, 2, 3)).double(), run.index, {}, {})
    return policy, run, advantages(scores)


def ranked_rollout():
    """(rollout, advantages) of ten steps in batches of whole groups: each image is better than the one before it."""
    run = rollout(trained_policy("sd3"), prompts_for("sd3"), PlainVAE(), WHOLE_GROUPS, 0)
    return run, advantages(Scores(torch.arange(8.0).double(), run.index, {}, {}))
