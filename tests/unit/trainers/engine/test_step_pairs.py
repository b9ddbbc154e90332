"""Pairs of whole trajectories: which steps, in which order, how many at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from posttrain.tests.unit.trainers.preference_cases import made
from posttrain.trainers.engine.step_pairs import whole_trajectories
from posttrain.trainers.feedback.pairs import preferences
from posttrain.trainers.noise.streams import generator


@pytest.mark.parametrize("batch_size, at_once", [(1, 1), (4, 2), (6, 3)])
def test_every_step_of_every_pair_comes_in_an_order_that_stays_as_it_is(batch_size, at_once):
    """A run that is taken up again goes on in the order that it would have had; a batch holds winners and losers."""
    _, run, scores = made("sd3")
    pairs = preferences(scores)
    run = replace(run, batch_size=batch_size, iteration=3, seeds=torch.arange(12, 20))
    (bundles,) = whole_trajectories(run, pairs, 1)
    length, count = run.trajectory.steps, len(pairs.winner)
    order = torch.randperm(count * length, generator=generator(3, 12, 11))
    assert torch.equal(torch.cat([bundle.pairs for bundle in bundles]), order // length)
    for bundle, chosen in zip(bundles, order.split(at_once), strict=True):
        assert bundle.step.tolist() == (chosen % length).tolist() * 2 and bundle.size == len(chosen)
        assert bundle.rows.tolist() == pairs.winner[bundle.pairs].tolist() + pairs.loser[bundle.pairs].tolist()
