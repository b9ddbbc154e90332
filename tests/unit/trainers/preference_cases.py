"""Policies, rollouts and feedback for the methods that learn from preferences."""

from __future__ import annotations

from dataclasses import replace

import torch
from posttrain.rewards.base.reward import Scores
from posttrain.trainers.engine.renoise import Renoised, paired
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.labels import labels
from posttrain.trainers.feedback.pairs import preferences
from posttrain.trainers.feedback.step_pairs import StepPreferences
from posttrain.trainers.kto import KTO
from posttrain.trainers.policy import Recipe, create_policy, open_policy
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from posttrain.trainers.spo import SPO
from small_models import PlainVAE, prompts_for, small_model, trained_policy

SMALL = Sampling(steps=6, width=64, height=64, prompts_per_iteration=2, images_per_prompt=4, batch_size=4, noisy_steps=2)
KINDS = ("sd15", "sd2_v", "sd3")
ONE = Optimizer(learning_rate=1e-3)


def fresh_policy(kind: str):
    return create_policy(small_model(kind), Recipe(rank=4, targets="all linear layers and convolutions"))


def made(kind: str, policy=None, **settings):
    policy = policy or trained_policy(kind)
    run = rollout(policy, prompts_for(kind), PlainVAE(), replace(SMALL, **settings), 0)
    return policy, run, Scores(run.images.mean((1, 2, 3)).double(), run.index, {}, {})


def in_step_pairs(run, seed: int = 1) -> StepPreferences:
    """One pair of candidates at each step of each sample: what was reached, and the same with other noise."""
    rows, steps = (t.flatten() for t in torch.meshgrid(torch.arange(8), torch.arange(run.trajectory.steps), indexing="ij"))
    reached, mean = run.trajectory.states[rows, steps + 1], run.trajectory.means[rows, steps]
    std = (reached - mean).flatten(1).std(1)[:, None, None, None]
    other = mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
    return StepPreferences(rows, steps, reached, other, torch.ones(len(rows)), {"failed": 0.0, "pairs": len(rows)})


def feedback_for(settings, run, scores):
    if isinstance(settings, KTO):
        return labels(scores)
    return in_step_pairs(run) if isinstance(settings, SPO) else preferences(scores)


def errors(policy, run, pairs, bank_of, levels: int = 4):
    """[2, levels * pairs]: winners' and losers' errors under this policy's weights."""
    found = []
    with open_policy(policy) as net:
        for micro in paired(run, pairs, levels, 1)[0]:
            question = Renoised(net, run, micro)
            found.append(question.error(question.ask(net.to_device(bank_of.bank))).reshape(2, -1))
    return torch.cat(found, 1)


def trap(kind: str):
    """Pairs whose losers err in the winners' direction, only further: to push the loser away pushes the winner too."""
    policy, run, scores = made(kind)
    pairs, latents = preferences(scores), run.latents.clone()
    latents[pairs.loser] = 3 * latents[pairs.winner]
    return policy, replace(run, latents=latents), pairs
