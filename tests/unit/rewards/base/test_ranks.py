"""How work is dealt out, and what ranks that have met agree on; real processes do it in tests/simulated and tests/host."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from posttrain.rewards.base import ranks, reward
from posttrain.rewards.base.reward import Prompt, RewardInfo, score


@pytest.fixture
def rank_of(monkeypatch):
    """rank_of(1, 3): this process takes itself for the second of three; there is nobody to meet."""

    def be(rank: int, count: int):
        monkeypatch.setattr(ranks, "number", lambda: rank)
        monkeypatch.setattr(ranks, "count", lambda: count)

    return be


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("rows, unit", [(0, 1), (1, 1), (7, 1), (7, 2), (8, 4), (3, 8)])
def test_blocks_hold_each_row_once_and_cut_at_units(rank_of, rows, unit, count):
    rank_of(0, count)
    blocks = [ranks.block(rows, unit, rank) for rank in range(count)]
    assert [row for own in blocks for row in range(own.start, own.stop)] == list(range(rows))
    assert all(own.start % unit == 0 or own.start == rows for own in blocks)
    units = [-(-(own.stop - own.start) // unit) for own in blocks]
    assert max(units) - min(units) <= 1 and units == sorted(units, reverse=True)  # the first rank has work if any has


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_own_batches_are_the_blocks_unit_by_unit_and_a_rank_without_rows_has_none(rank_of, count):
    found = []
    for rank in range(count):
        rank_of(rank, count)
        batches = ranks.own_batches(7, 2)
        assert [row for batch in batches for row in batch.tolist()] == list(range(7))[ranks.block(7, 2)]
        found += [batch.tolist() for batch in batches]
    assert found == [[0, 1], [2, 3], [4, 5], [6]]


def test_rows_are_joined_in_order_and_a_single_part_stays_where_it_is():
    part = torch.ones(2, 3)
    assert ranks.joined_rows("here", [part], 2) is part
    assert torch.equal(ranks.joined_rows("here", [part, 2 * part], 4), torch.cat([part, 2 * part]))


@dataclass(frozen=True)
class Look:
    together: int
    part: int


def test_items_are_dealt_in_turn_and_those_that_belong_together_to_one_rank(rank_of):
    looks = [Look(rows, part) for rows in (0, 4, 8) for part in range(3)]
    for count in (1, 2, 3, 4):
        dealt = []
        for rank in range(count):
            rank_of(rank, count)
            dealt.append(ranks.own_part(looks))
        assert sorted((look.together, look.part) for part in dealt for look in part) == [
            (r, p) for r in (0, 4, 8) for p in range(3)
        ]
        owners = {look.together: rank for rank, part in enumerate(dealt) for look in part}
        assert all(owners[look.together] == rank for rank, part in enumerate(dealt) for look in part)
    rank_of(1, 2)
    assert ranks.own_part([10, 11, 12, 13, 14]) == [11, 13]


def test_alone_everything_is_as_it_came():
    assert ranks.count() == 1 and ranks.number() == 0 and not ranks.helps() and not ranks.launched()
    assert ranks.met("here", 3) == [3] and ranks.of_first("here", lambda: 4) == 4
    own = {"x": torch.ones(2)}
    assert ranks.gathered("here", own, 2) is own and ranks.merged("here", {1: 2}) == {1: 2}
    leaf = torch.ones(2, requires_grad=True)
    ranks.add_gradients("here", [leaf])
    assert leaf.grad is None
    ranks.leave()
    assert ranks.count() == 1


class Meeting:
    """What torch.distributed would bring from the others."""

    def __init__(self, *others):
        self.others = others

    def all_gather_object(self, found, own):
        found[:] = [own, *self.others]


def meet(monkeypatch, rank_of, *others):
    rank_of(0, 1 + len(others))
    monkeypatch.setattr(ranks, "_left", False)
    monkeypatch.setattr(ranks.torch, "distributed", Meeting(*others))


@pytest.mark.parametrize(
    "state, kind",
    [
        (ranks.FAILED, ranks.RankEnded),
        (ranks.CANCELLED, ranks.RankCancelled),
        (ranks.PAUSED, ranks.RankPaused),
        (ranks.DONE, ranks.RankEnded),
    ],
)
def test_a_rank_that_has_ended_ends_the_others_with_its_reason(monkeypatch, rank_of, state, kind):
    meet(monkeypatch, rank_of, (state, "the disk is full", None))
    with pytest.raises(ranks.RankEnded, match=f"rank 1 has ended .{state}.: the disk is full") as caught:
        ranks.met("latents")
    assert type(caught.value) is kind and ranks._left


def test_ranks_at_different_places_say_so(monkeypatch, rank_of):
    meet(monkeypatch, rank_of, (ranks.AT_WORK, "scores", None))
    with pytest.raises(RuntimeError, match="different places: 0 at latents, 1 at scores"):
        ranks.met("latents")


class Counted:
    """Scores an image by its mean, and counts the images that it was shown."""

    info = RewardInfo("mean", 0.0, 1.0, False, True, "")

    def __init__(self):
        self.shown = 0

    def __call__(self, images, prompts):
        self.shown += len(images)
        return images.flatten(1).mean(1)


def test_a_reward_is_asked_about_the_ranks_own_images_and_only_while_it_scores(monkeypatch, rank_of):
    rank_of(1, 2)
    images, prompts = torch.rand(5, 2, 2, 3, generator=torch.Generator().manual_seed(0)), [Prompt("a")] * 5
    expected = images.flatten(1).mean(1).double()
    monkeypatch.setattr(ranks, "met", lambda what, value=None: [value])
    monkeypatch.setattr(ranks, "gathered", lambda what, own, rows, unit=1: {key: expected.clone() for key in own})
    judge = Counted()
    assert torch.equal(score(judge, images, prompts, torch.zeros(5)).values, expected) and judge.shown == 2
    reward.evaluate(judge, images, prompts, torch.zeros(5))  # as a trainer through the reward asks, about its own micro-batch
    assert judge.shown == 2 + 5


@pytest.mark.parametrize("mark", ["compares", "asked_once"])
def test_a_reward_that_must_see_all_is_asked_by_the_first_rank_about_all(monkeypatch, rank_of, mark):
    rank_of(1, 2)
    judge = Counted()
    setattr(judge, mark, True)
    images = torch.rand(4, 2, 2, 3)
    monkeypatch.setattr(ranks, "met", lambda what, value=None: [value])
    monkeypatch.setattr(ranks, "of_first", lambda what, make: reward.Judgement(torch.ones(4), {"mean": torch.ones(4)}))
    assert score(judge, images, [Prompt("a")] * 4, torch.zeros(4)).values.tolist() == [1.0] * 4 and judge.shown == 0


def test_ranks_that_share_weights_each_do_all_of_the_networks_work_and_deal_out_the_rest(rank_of, monkeypatch):
    rank_of(1, 2)
    part, looks = torch.ones(3, 2), [Look(rows, part) for rows in (0, 4) for part in range(2)]
    assert ranks.splits_work() and not ranks.shares_weights()
    monkeypatch.setattr(ranks, "_sharing", True)
    assert ranks.shares_weights() and not ranks.splits_work() and ranks.count() == 2
    assert ranks.own_part(looks) == looks and [rows.tolist() for rows in ranks.own_batches(3, 2)] == [[0, 1], [2]]
    assert (
        ranks.joined_rows("here", [part], 3) is part and ranks.total("here", 7) == 7 and ranks.merged("here", {1: 2}) == {1: 2}
    )
    assert ranks.block(4) == slice(2, 4)  # pictures are still decoded and scored by parts
