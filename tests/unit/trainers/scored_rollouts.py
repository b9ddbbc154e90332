"""A rollout without random steps and its advantages."""

from __future__ import annotations

from posttrain.rewards.base.reward import Scores
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import PlainVAE, prompts_for, trained_policy

SMALL = Sampling(
    steps=6, width=64, height=64, prompts_per_iteration=2, images_per_prompt=4, batch_size=4, transition="deterministic"
)


def scored_rollout(kind: str):
    """(policy, rollout, advantages): brighter images are better."""
    policy = trained_policy(kind)
    run = rollout(policy, prompts_for(kind), PlainVAE(), SMALL, 0)
    scores = Scores(run.images.mean((1, 2, 3)).double(), run.index, {}, {})
    return policy, run, advantages(scores)
