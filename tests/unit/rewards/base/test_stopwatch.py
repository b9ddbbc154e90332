"""Where the time goes: each second is counted once, as the innermost work, and only for a run that collects it."""

from __future__ import annotations

import pytest
from posttrain.rewards.base import stopwatch
from posttrain.rewards.base.stopwatch import DECODING, SAMPLING, SCORING, timed


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves: pass(seconds)."""
    now = [0.0]
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    return passes


def test_work_within_work_is_counted_once_as_what_it_is(clock):
    watch, token = stopwatch.collect()

    @timed(SCORING)
    def scored():
        clock(5)

    try:
        with timed(SAMPLING):
            clock(1)
            with timed(DECODING):
                clock(2)
                scored()
            clock(3)
        scored()
        assert watch.take() == {SAMPLING: 4.0, DECODING: 2.0, SCORING: 10.0} and watch.take() == {}
        with pytest.raises(ValueError), timed(SAMPLING):
            clock(1)
            raise ValueError
        assert watch.take() == {SAMPLING: 1.0}
        with timed(SAMPLING):
            clock(2)
            stopwatch.note(stopwatch.SAMPLERS, 1.5)  # others' work is not taken from this one's
        assert watch.take() == {SAMPLING: 2.0, stopwatch.SAMPLERS: 1.5}
    finally:
        stopwatch.end(token)
    with timed(SAMPLING):
        clock(1)
    assert watch.take() == {}
