"""Bytes, seconds and the slowest part of an iteration, against cases worked out by hand."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
from posttrain.tools.host import ROOT

sys.path.append(str(ROOT))  # last, so that ComfyUI's nodes.py is not hidden
from benchmarks.scale.arithmetic import EXCHANGE, MEMORY, SAMPLING, TRAINING, Card, Job, apart, shared

CARD = Card("card", speed=100.0, network=1000.0, ram=1e6)
# 2 images a card: 10 evaluations each to sample and 3 with a backward, of 50 operations: half a second an evaluation
JOB = Job("model", 1000, 10, 30, 3, False, 10, 3, 0, 50.0, 2, 2)


def test_what_a_rollout_leaves_of_an_image():
    assert JOB.drawn == 4 * (10 + 4 * 10 + 3)  # the latent, the states around three steps, three likelihoods
    assert replace(JOB, means=True).drawn == JOB.drawn + 4 * 3 * 10
    assert replace(JOB, random=0).drawn == 4 * 10


def test_one_card_moves_nothing_and_waits_for_nobody():
    for way in (shared, apart):
        row = way(JOB, CARD, 1)
        assert (row.received, row.exchange, row.idle) == (0, 0, 0)
        assert (row.sampling, row.training, row.seconds) == (2 * 10 * 0.5, 2 * 3 * 3 * 0.5, 19.0)
        assert row.card_seconds(2) == 9.5 and row.slowest == SAMPLING


def test_four_processes_that_share_all():
    row = shared(JOB, CARD, 4)
    of_images = 3 * 2 * (212 + 4 * 30)  # of three others, with their pictures
    gradients = 2 * 2 * 3 / 4 * 4000  # two updates; in a ring a process receives 2 (n - 1) / n of them
    assert row.received == of_images + gradients == 1992 + 12000
    assert row.exchange == pytest.approx(13.992) and row.seconds == pytest.approx(19 + 13.992)
    assert row.idle == pytest.approx(13.992 / 32.992) and row.card_seconds(8) == pytest.approx(4 * 32.992 / 8)
    assert row.held == 4 * 2 * 332 and row.slowest == EXCHANGE


def test_one_trains_and_three_sample():
    row = apart(JOB, CARD, 4)
    assert row.received == 3 * 2 * 212 and row.held == row.received  # pictures are decoded by the one who trains
    assert row.exchange == 3 * 4000 / 1000  # the LoRA goes out three times, which is more
    assert (row.sampling, row.training, row.seconds, row.slowest) == (10, 27, 10 + 12 + 27, TRAINING)
    assert row.idle == pytest.approx(1 - (27 + 3 * 10) / (4 * 49))
    behind = apart(JOB, CARD, 4, behind=True)
    assert behind.seconds == 27 and behind.idle == pytest.approx(1 - 57 / (4 * 27))


def test_a_further_evaluation_counts_once_and_one_with_a_backward_three_times():
    assert replace(JOB, gradient=0, further=1).train_seconds(CARD, 2) == 1.0
    assert replace(JOB, gradient=1).train_seconds(CARD, 2) == 3.0


def test_what_has_no_room_in_ram_is_named_before_what_is_slow():
    assert shared(JOB, replace(CARD, ram=2655), 4).slowest == MEMORY
    assert shared(JOB, replace(CARD, ram=2656), 4).slowest == EXCHANGE
