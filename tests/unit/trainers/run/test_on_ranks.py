"""The folders of several ranks: the first one's counts, the others begin with a copy of it."""

from __future__ import annotations

import pytest
import torch
from posttrain.rewards.base import ranks
from posttrain.trainers.run.folder import CONTINUE, START_OVER, Run
from posttrain.trainers.run.lock import RunInUse
from posttrain.trainers.run.on_ranks import open_on_all

SETTINGS = {"1.a": 1}


def opens(root, when_exists=CONTINUE):
    return lambda given: Run.open(root, "r", SETTINGS, given or when_exists)


def with_a_checkpoint(root):
    run = Run.open(root, "r", SETTINGS)
    run.load()
    run.record(1, 1.0, {"reward_mean": 0.5})
    run.save(1, {"w": torch.ones(2)}, {}, 1)
    run.close()


def test_the_others_go_on_from_what_the_first_has(tmp_path, monkeypatch):
    with_a_checkpoint(tmp_path / "first")
    sent = []
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "of_first", lambda what, make: sent.append(make()) or sent[0])
    first = open_on_all(tmp_path / "first", "r", opens(tmp_path / "first"))
    monkeypatch.setattr(ranks, "helps", lambda: True)
    monkeypatch.setattr(ranks, "of_first", lambda what, make: sent[0])
    other = open_on_all(tmp_path / "other", "r", opens(tmp_path / "other", START_OVER))
    assert other.config == first.config
    (iteration, tensors, _), (_, own, _) = other.load(), first.load()
    assert iteration == 1 and torch.equal(tensors["w"], own["w"]) and other.points() == first.points()
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["r"]
    first.close(), other.close()


def test_a_first_rank_that_loses_the_others_gives_its_run_back(tmp_path, monkeypatch):
    def gone(what, make):
        raise ranks.RankEnded("rank 1 has ended")

    monkeypatch.setattr(ranks, "of_first", gone)
    with pytest.raises(ranks.RankEnded):
        open_on_all(tmp_path, "r", opens(tmp_path))
    monkeypatch.undo()
    open_on_all(tmp_path, "r", opens(tmp_path)).close()


def test_alone_it_is_the_run_itself(tmp_path):
    run = open_on_all(tmp_path, "r", opens(tmp_path))
    with pytest.raises(RunInUse):
        open_on_all(tmp_path, "r", opens(tmp_path))
    run.close()
