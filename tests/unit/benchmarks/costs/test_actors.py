"""The benchmark of hundreds of actors, without Ray: what it takes for ideal, and that its actors answer as ComfyUIs do."""

from __future__ import annotations

import sys
import time

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
    """Asks a Replayer in this process."""

    def __init__(self, replayer):
        self._replayer = replayer

    def __call__(self, route, body, kind, seconds):
        return self._replayer.ask(route, body, kind, seconds)

    def finished(self, route, stopped, seconds):
        return self._replayer.finished(route, seconds)


@pytest.fixture
def lend():
    yield lent.lend
    lent.lend({})


def test_all_images_are_drawn_by_actors_that_take_their_time(lend):
    tasks, times = 12, [0.1, 0.2]
    made = world(prompts_per_iteration=tasks, images_per_prompt=actors.IMAGES, transition="deterministic", noise_level=0.0)
    lend({f"ray {number}": Direct(actors.Replayer(times, actors.latents())) for number in range(3)})
    begun = time.monotonic()
    drawn = actors.drawings(made, tasks)(list(lent.names()), 0).drawn(lambda: None, lambda *_: None)
    assert drawn.values["latents"].shape == (tasks * actors.IMAGES, 3, 24, 24)
    assert time.monotonic() - begun >= sum(times) * tasks / 2 / 3
