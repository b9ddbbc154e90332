"""What a train step learns from, and whether it fits the trainer and the rollout."""
from __future__ import annotations

from dataclasses import replace

import torch

from ...rewards.base.reward import Scores
from ...rewards.base.reweighted import told_before
from ..sampling.rollout import Rollout
from .advantages import Advantages
from .labels import Labels
from .pairs import Preferences
from .step_pairs import StepPreferences

Feedback = Advantages | Preferences | Labels | StepPreferences
# what it is called, and the nodes that make it
WORDS = {
    Advantages: ("advantages", "Advantages, between Score Rollout and Train Step"),
    Preferences: ("pairs of images", "Preferences, between Score Rollout and Train Step, or Pairs for Training"),
    Labels: ("thumbs up and down", "Thumbs, between Score Rollout and Train Step, or Pairs for Training with a set of "
             "thumbs"),
    StepPreferences: ("pairs inside the denoising steps", "Step Rollout in the place of Rollout"),
}


def check_fits(trainer: str, wanted: type | None, feedback: Feedback | None, rollout: Rollout) -> None:
    """ValueError where this trainer learns from another kind of feedback, or the feedback is of another rollout.

    wanted: the kind that the trainer learns from; None: from none, what it is given is only shown on the curve.
    """
    if wanted is not None and not isinstance(feedback, wanted):
        given = "nothing" if feedback is None else WORDS.get(type(feedback), (type(feedback).__name__,))[0]
        raise ValueError(f"feedback: {trainer} learns from {WORDS[wanted][0]}, but it was given {given}; "
                         f"use the node {WORDS[wanted][1]}")
    if feedback is not None:
        _check_of_this(feedback, rollout)


def _check_of_this(feedback: Feedback, rollout: Rollout) -> None:
    count = len(rollout.index)
    if isinstance(feedback, Advantages):
        if len(feedback.values) != count:
            raise ValueError(f"advantages: {len(feedback.values)} values for {count} samples; connect the scores of "
                             "this very rollout")
    elif isinstance(feedback, Preferences):
        _check_rows(torch.cat([feedback.winner, feedback.loser]), count)
        _check_pairs(feedback, rollout)
    else:
        _check_rows(feedback.index if isinstance(feedback, Labels) else feedback.rows, count)
        if isinstance(feedback, StepPreferences) and rollout.trajectory is None:
            raise ValueError("rollout: its steps are not known, but these pairs are of its steps; connect both outputs "
                             "of the same Step Rollout")


def _check_rows(rows: torch.Tensor, count: int) -> None:
    if len(rows) and int(rows.max()) >= count:
        raise ValueError(f"preferences: they speak of image {int(rows.max()) + 1}, but the rollout has {count}; connect "
                         "the scores of this very rollout")


def _check_pairs(feedback: Preferences, rollout: Rollout) -> None:
    same = feedback.winner == feedback.loser
    if bool(same.any()):
        raise ValueError(f"preferences: {int(same.sum())} pairs hold the same image twice; a pair needs two images")
    mixed = rollout.index[feedback.winner] != rollout.index[feedback.loser]
    if bool(mixed.any()):
        raise ValueError(f"preferences: {int(mixed.sum())} pairs hold images of two different prompts; connect the "
                         "scores of this very rollout")


def pairs_only(feedback: Feedback, rollout: Rollout) -> Preferences:
    """The pairs of finished images that a step reward is trained on; ValueError for any other kind of feedback."""
    if not isinstance(feedback, Preferences):
        raise ValueError(f"preferences: a step reward learns from pairs of images, but it was given "
                         f"{WORDS.get(type(feedback), (type(feedback).__name__,))[0]}; use the node {WORDS[Preferences][1]}")
    _check_rows(torch.cat([feedback.winner, feedback.loser]), len(rollout.index))
    _check_pairs(feedback, rollout)
    return feedback


def teaches(feedback: Feedback) -> bool:
    """Whether there is anything to learn from it."""
    if isinstance(feedback, Advantages):
        return bool(feedback.used.any())
    rows = {Preferences: "winner", Labels: "index", StepPreferences: "rows"}[type(feedback)]
    return len(getattr(feedback, rows)) > 0


def with_reward(feedback: Preferences | Labels, scores: Scores) -> Preferences | Labels:
    """The same with the reward's mean, spread and weights among its numbers, for the curve."""
    known = scores.values[scores.values.isfinite()]
    mean, std = (float(known.mean()), float(known.std(correction=0))) if len(known) else (float("nan"), 0.0)
    return replace(feedback, stats=feedback.stats | {"reward_mean": mean, "reward_std": std} | told_before(scores.stats))
