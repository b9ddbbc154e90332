"""An iteration of every trainer on a small SD3, which attends to the text, or on another model and its prompts."""

from __future__ import annotations

from dataclasses import replace

import torch
from posttrain.rewards.base.reward import RewardInfo, Scores
from posttrain.tests.unit.trainers.usual_settings import usual
from posttrain.trainers.dpok import DPOK
from posttrain.trainers.engine.update import Optimizer
from posttrain.trainers.feedback.advantages import Advantages, advantages
from posttrain.trainers.feedback.labels import Labels, labels
from posttrain.trainers.feedback.pairs import Preferences, preferences
from posttrain.trainers.judges.step_rollout import Candidates, step_rollout
from posttrain.trainers.methods import METHODS, OWN_IMAGES, Trainer, backprop_step, train_step
from posttrain.trainers.sampling.rollout import rollout
from posttrain.trainers.sampling.settings import Sampling
from posttrain.trainers.spo import SPO
from posttrain.trainers.srpo import SRPO
from small_models import prompts_for, small_vae, trained_policy

SMALL = Sampling(steps=3, width=32, height=32, prompts_per_iteration=2, images_per_prompt=2, batch_size=4, guidance=2.0)
RAW = Optimizer(weight_decay=0.0, max_grad_norm=0.0)
RULES = {Advantages: advantages, Preferences: preferences, Labels: labels, type(None): lambda scores: None}


class Wave:
    info = RewardInfo("wave", None, None, True, True, "")

    def __call__(self, images, prompts):
        signs = torch.tensor([1.0 if "light" in prompt.text else -0.5 for prompt in prompts])
        return (signs[:, None] * (3 * images).sin().flatten(1)).mean(1)


def settings_of(kind: type, policy=None):
    chosen = {DPOK: DPOK(value_steps=2), SRPO: SRPO("light", "dark")}
    settings = chosen.get(kind) or usual(kind, policy or trained_policy("sd3"))
    return replace(settings, levels=1) if hasattr(settings, "levels") else settings


def rolled(kind: type, policy, sampling: Sampling = SMALL, trainer: Trainer | None = None, prompts=None, reward=None) -> tuple:
    """What ``train_step`` is given for this trainer."""
    prompts, vae, method = prompts or prompts_for("sd3"), small_vae("sd3"), METHODS[kind]
    if kind is SPO:
        made, feedback = step_rollout(policy, prompts, vae, sampling, 0, reward or Wave(), Candidates(2, threshold=0.0))
    else:
        made = rollout(policy, prompts, vae, sampling, policy.iteration)
        # by the seed, so that it does not matter in which order they lie
        values = torch.tensor([0.1, 0.7, 0.4, 0.2], dtype=torch.float64).repeat(len(made.seeds) // 4)
        scores = Scores(values[made.seeds.argsort().argsort()], made.index, {}, {})
        feedback = RULES[method.learns_from or type(None)](scores)
    return policy, made, feedback, trainer or Trainer(settings_of(kind, policy), RAW)


def stepped(kind: type, policy=None, sampling: Sampling = SMALL, trainer: Trainer | None = None, prompts=None, reward=None):
    """The policy after an iteration."""
    policy = policy or trained_policy("sd3")
    if METHODS[kind].needs != OWN_IMAGES:
        return train_step(*rolled(kind, policy, sampling, trainer, prompts, reward))
    trainer = trainer or Trainer(settings_of(kind, policy), RAW)
    known = prompts or prompts_for("sd3")
    return backprop_step(policy, known, small_vae("sd3"), reward or Wave(), sampling, trainer)[0]
