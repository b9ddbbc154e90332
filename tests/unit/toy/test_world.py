"""The toy world's generator: its grammar, its fixed split and its pictures."""
from __future__ import annotations

import numpy as np
import pytest
from posttrain.toy import world


def test_every_caption_is_unique_and_uses_known_words():
    captions = [world.caption(s) for s in world.all_specs()]
    assert len(captions) == len(set(captions)) == 96
    assert {word for c in captions for word in c.split()} == set(world.WORDS)


def test_split_is_disjoint_complete_and_holds_out_every_kind():
    train, held_out = (
        {world.caption(s): s for s in world.split(held_out=side)} for side in (False, True)
    )
    assert not train.keys() & held_out.keys()
    assert len(train) + len(held_out) == 96
    assert held_out.keys() == world.HELD_OUT
    assert {s["kind"] for s in held_out.values()} == set(world.KINDS)
    assert sum(s["kind"] == "count" for s in held_out.values()) >= 3
    # every held-out word is seen in training
    assert {w for c in held_out for w in c.split()} <= {w for c in train for w in c.split()}


def test_no_held_out_meaning_is_trained_on_in_other_words():
    def meaning(s):
        first, *rest = [tuple(o) for o in s["objects"]]
        if s["relation"] in ("right of", "below"):
            return rest[0], first, world.OPPOSITE[s["relation"]]
        if s["relation"]:
            return first, rest[0], s["relation"]
        return frozenset([first, *rest])

    seen = {meaning(s) for s in world.split(held_out=False)}
    assert not seen & {meaning(s) for s in world.split(held_out=True)}


def test_pictures_repeat_with_the_seed_and_differ_without():
    specs = world.all_specs()[:20]
    first, again, other = (world.render(specs, seed) for seed in (3, 3, 4))
    assert first.shape == (20, world.SIZE, world.SIZE, 3) and first.dtype == np.float32
    assert 0 <= first.min() and first.max() <= 1
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_balls_lie_where_the_relation_says():
    for relation, axis, sign in (("left of", 1, -1), ("right of", 1, 1), ("above", 0, -1), ("below", 0, 1)):
        images = world.render([world.spec("position", [(1, "red"), (1, "blue")], relation)] * 50, seed=0)
        places = []
        for channel, other in ((0, 2), (2, 0)):
            weight = (images[..., channel] - images[..., other]).clip(0.3) - 0.3
            total = weight.sum((1, 2))
            grid = np.mgrid[: world.SIZE, : world.SIZE][axis]
            places.append((weight * grid).sum((1, 2)) / total)
        assert (sign * (places[0] - places[1]) > 5).all()


@pytest.mark.parametrize("kind", world.KINDS)
def test_a_wrong_spec_asks_for_another_picture(kind):
    rng = np.random.default_rng(0)
    for s in (s for s in world.all_specs() if s["kind"] == kind):
        for _ in range(20):
            w = world.wrong(s, rng)
            same_balls = sorted(map(tuple, w["objects"])) == sorted(map(tuple, s["objects"]))
            assert not same_balls or (s["relation"] and w["relation"] != s["relation"])
            assert sum(n for n, _ in w["objects"]) <= world.MAX_BALLS
