"""Rollouts and duels for the discriminator."""

from __future__ import annotations

from dataclasses import replace

from posttrain.trainers.add import ADD, duels
from posttrain.trainers.sampling.rollout import Rollout, rollout
from posttrain.trainers.sampling.settings import Sampling
from small_models import PlainVAE, prompts_for

SMALL = Sampling(
    steps=6, width=64, height=64, prompts_per_iteration=2, images_per_prompt=2, batch_size=4, transition="deterministic"
)


def made_by(policy, kind: str, guidance: float = 1.0, lengths=(6, 6)) -> Rollout:
    return rollout(policy, prompts_for(kind, lengths), PlainVAE(), replace(SMALL, guidance=guidance), 0)


def first_duel(policy, made, **settings):
    return duels(policy, made, ADD(**settings), 1)[0][0]
