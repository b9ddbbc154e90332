"""How processes find each other, also where a store still holds what those of an earlier start have left."""

from __future__ import annotations

import threading

import pytest
import torch
from posttrain.nodes import meeting


@pytest.fixture
def store():
    return torch.distributed.HashStore()


def names_of_a_start(store, count: int) -> list[str]:
    found: dict[int, str] = {}
    ranks = [
        threading.Thread(
            target=lambda rank=rank: found.update({rank: meeting.name_of_this_start(store, rank, count)}), daemon=True
        )
        for rank in range(count)
    ]
    for rank in reversed(ranks):  # the first one last: the others wait for it
        rank.start()
    for rank in ranks:
        rank.join(20)
    return [found[rank] for rank in range(count)]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_all_ranks_of_a_start_have_one_name_and_each_start_another(store, count):
    starts = [names_of_a_start(store, count) for _ in range(3)]
    assert [len(set(names)) for names in starts] == [1, 1, 1] and len({names[0] for names in starts}) == 3


@pytest.mark.parametrize("left", ["here 0", "here 1", "heard 0", "heard 1", "all here"])
def test_what_a_start_that_was_cut_short_has_left_is_not_taken_for_this_one(store, left):
    names_of_a_start(store, 2)
    before = store.get(left).decode()
    store.set(left, "of a process that is gone" if left != "all here" else "gone gone")
    names = names_of_a_start(store, 2)
    assert len(set(names)) == 1 and names[0] not in before


def test_alone_nobody_is_met(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    start = meeting.join_ranks()
    start.begin()
    assert start == meeting.Start(again=False)


def test_those_that_are_started_after_others_are_told(store):
    meeting.Start(store=store).begin()
    assert store.check([meeting.BEGUN])
