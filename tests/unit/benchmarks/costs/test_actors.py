"""The benchmark of hundreds of actors, without Ray: what it takes for ideal, and that its actors answer as ComfyUIs do."""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest
from posttrain.tools.host import ROOT
from posttrain.trainers.servers import actors as lent

sys.path.append(str(ROOT))  # last, so that ComfyUI's nodes.py is not hidden
from benchmarks.costs import actors
from benchmarks.costs._world import world


def test_ideal_is_that_whoever_is_free_takes_the_next_one():
    assert actors.ideal_seconds(2, [3.0, 1.0, 1.0, 1.0, 2.0]) == 5.0  # the last one is begun at 3
    assert actors.ideal_seconds(3, [1.0, 2.0]) == 2.0


def test_a_machine_gets_as_many_actors_as_it_can_serve():
    assert [actors.served(2, 20e9), actors.served(64, 64e9), actors.served(64, 6e9), actors.served(1, 0)] == [32, 256, 50, 1]


class Direct:
    """Asks one of several samplers of an actor, which is in this process."""

    def __init__(self, replayers, number):
        actor = SimpleNamespace(**{name: SimpleNamespace(remote=getattr(replayers, name)) for name in ("ask", "finished")})
        self._seat = actors.seat(actor, number)

    def __call__(self, route, body, kind, seconds):
        return self._seat.ask.remote(route, body, kind, seconds)

    def finished(self, route, stopped, seconds):
        return self._seat.finished.remote(route, seconds)


@pytest.fixture
def lend():
    yield lent.lend
    lent.lend({})


def test_all_images_are_drawn_by_actors_that_take_their_time(lend):
    tasks, times = 12, [0.1, 0.2]
    made = world(prompts_per_iteration=tasks, images_per_prompt=actors.IMAGES, transition="deterministic", noise_level=0.0)
    replayers = actors.Replayers(3, times, actors.latents())
    lend({f"ray {number}": Direct(replayers, number) for number in range(3)})
    begun = time.monotonic()
    drawn = actors.drawings(made, tasks)(list(lent.names()), 0).drawn(lambda: None, lambda *_: None)
    assert drawn.values["latents"].shape == (tasks * actors.IMAGES, 3, 24, 24)
    assert time.monotonic() - begun >= sum(times) * tasks / 2 / 3
