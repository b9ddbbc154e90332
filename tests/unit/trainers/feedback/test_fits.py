"""Feedback of the wrong kind, or of another rollout, is refused in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.preference_cases import ONE, in_step_pairs, made
from posttrain.trainers.d3po import D3PO
from posttrain.trainers.diffusion_dpo import DiffusionDPO
from posttrain.trainers.feedback.advantages import advantages
from posttrain.trainers.feedback.labels import labels
from posttrain.trainers.feedback.pairs import preferences
from posttrain.trainers.kto import KTO
from posttrain.trainers.mapo import MaPO
from posttrain.trainers.methods import Trainer, train_step
from posttrain.trainers.nft import NFT
from posttrain.trainers.spo import SPO


@pytest.mark.parametrize(
    "settings, feedback, words",
    [
        (DiffusionDPO(), "advantages", ["pairs of images", "Preferences"]),
        (NFT(), "pairs", ["learns from advantages", "Advantages"]),
        (KTO(), "pairs", ["thumbs up and down", "Thumbs"]),
        (MaPO(), "thumbs", ["pairs of images", "Preferences"]),
        (SPO(), "pairs", ["inside the denoising steps", "Step Rollout"]),
        (D3PO(), "steps", ["pairs of images", "Preferences"]),
    ],
)
def test_the_wrong_kind_of_feedback_names_the_node_to_use(settings, feedback, words):
    policy, run, scores = made("sd3")
    feed = {
        "advantages": lambda: advantages(scores),
        "pairs": lambda: preferences(scores),
        "thumbs": lambda: labels(scores),
        "steps": lambda: in_step_pairs(run),
    }[feedback]()
    with pytest.raises(ValueError) as error:
        train_step(policy, run, feed, Trainer(settings, ONE))
    assert all(word in str(error.value) for word in words), error.value


def test_feedback_that_cannot_be_of_this_rollout_is_refused():
    policy, run, scores = made("sd3")
    pairs = preferences(scores)
    for wrong, word in (
        (replace(pairs, winner=pairs.winner + 8), "this very rollout"),
        (replace(pairs, loser=pairs.winner), "same image twice"),
        (replace(pairs, loser=pairs.loser.flip(0)), "two different prompts"),
    ):
        with pytest.raises(ValueError, match=word):
            train_step(policy, run, wrong, Trainer(DiffusionDPO(), ONE))
    with pytest.raises(ValueError, match="this very rollout"):
        train_step(policy, run, replace(labels(scores), index=torch.arange(8) + 3), Trainer(KTO(), ONE))
    with pytest.raises(ValueError, match="Step Rollout"):
        train_step(policy, replace(run, trajectory=None), in_step_pairs(run), Trainer(SPO(), ONE))
