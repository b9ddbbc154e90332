from __future__ import annotations

from posttrain.rewards.base import beside


def test_a_run_says_how_far_it_goes_and_alone_nothing_comes():
    assert not beside.comes(0)
    outer = beside.collect(2)
    inner = beside.collect(5)
    assert beside.comes(4) and not beside.comes(5)
    beside.end(*inner)
    assert beside.comes(1) and not beside.comes(2)
    beside.end(*outer)
    assert not beside.comes(0)


def test_what_goes_on_beside_a_run_ends_with_it_once():
    ended = []
    end = lambda: ended.append("drawing")  # noqa: E731
    beside.ends_with_the_run(end)  # without a run nobody ends it
    run = beside.collect(2)
    for _ in range(2):
        beside.ends_with_the_run(end)
    assert not ended
    beside.end(*run)
    assert ended == ["drawing"]
