"""Two clients and one queue: none has what another has, what is left alone becomes free, and only one's own can be changed."""

from __future__ import annotations

import random

import pytest
from posttrain.nodes.page.turns import LEASE, Turns


class World:
    def __init__(self, count: int, judged=()):
        self.now, self.judged = 0.0, set(judged)
        self.turns = Turns(count, self.judged.__contains__, lambda: self.now)


def test_no_two_clients_have_the_same_sheet_and_all_are_judged_once_whatever_they_do():
    for seed in range(50):
        choose = random.Random(seed)
        world, has, times = World(12), {}, dict.fromkeys(range(12), 0)
        while True:
            who = choose.choice(("tab", "other tab", "phone"))
            has[who] = world.turns.take(who)["sheet"]
            held = [sheet for sheet in has.values() if sheet is not None and sheet not in world.judged]
            assert len(set(held)) == len(held)
            if has[who] is None and len(world.judged) == 12:
                break
            if has[who] is not None and choose.random() < 0.7:
                world.turns.check(has[who], who)
                world.judged.add(has[who])
                times[has[who]] += 1
            world.now += choose.random()
        assert set(times.values()) == {1}


def test_what_is_left_alone_becomes_free_and_a_late_vote_on_it_is_refused():
    world = World(1)
    assert world.turns.take("phone")["sheet"] == 0
    world.now += LEASE / 2
    assert world.turns.take("phone")["sheet"] == 0, "a sign of life"
    world.now += LEASE - 1
    assert world.turns.take("tab") == {"sheet": None, "trail": [], "left": 0, "elsewhere": 1}
    world.now += 2
    assert world.turns.take("tab")["sheet"] == 0
    with pytest.raises(ValueError, match="somebody else is rating these images"):
        world.turns.check(0, "phone")
    assert world.turns.take("phone")["sheet"] is None


def test_one_goes_back_to_ones_own_only():
    world = World(4, judged={0})
    assert world.turns.take("tab")["sheet"] == 1 and world.turns.take("phone")["sheet"] == 2
    world.judged |= {1, 2}
    assert world.turns.take("tab") == {"sheet": 3, "trail": [0, 1], "left": 0, "elsewhere": 0}
    assert world.turns.take("phone")["trail"] == [0, 2]
    for sheet, who in ((1, "phone"), (2, "tab")):
        with pytest.raises(ValueError, match="or has rated them"):
            world.turns.check(sheet, who)
    world.turns.check(0, "phone")  # yesterday's: whoever changes it first
    with pytest.raises(ValueError, match="or has rated them"):
        world.turns.check(0, "tab")
    assert world.turns.take("tab")["trail"] == [1]


def test_what_is_passed_over_is_not_asked_again_and_can_be_gone_back_to():
    world = World(2)
    assert world.turns.take("tab", None)["sheet"] == 0
    assert world.turns.take("tab", 0) == {"sheet": 1, "trail": [0], "left": 0, "elsewhere": 0}
    assert world.turns.take("phone") == {"sheet": None, "trail": [], "left": 0, "elsewhere": 1}
    assert world.turns.take("tab", 1) == {"sheet": None, "trail": [0, 1], "left": 0, "elsewhere": 0}


@pytest.mark.parametrize("client, done", [("", None), ("x" * 101, None), ("a", 5), ("a", -1)])
def test_what_is_no_client_and_no_sheet_is_refused(client, done):
    with pytest.raises(ValueError, match="client|done"):
        World(2).turns.take(client, done)
