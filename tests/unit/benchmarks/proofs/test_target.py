"""Time to a target: what is measured of each training, what counts as its time, and when it is there."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from posttrain.tools.host import ROOT

sys.path.append(str(ROOT))  # the claims name their tools absolutely; last, so that ComfyUI's nodes.py is not hidden
from benchmarks.pages import between, put_between
from benchmarks.proofs.claims import PROOFS
from benchmarks.proofs.target import RIVALS, Clock, Course, measured
from tools.training import every


@pytest.mark.parametrize("name", RIVALS)
def test_the_last_loop_is_measured_on_prompts_of_the_model_that_it_trains(name):
    graph = PROOFS[name].graph("any", 0, {})
    world = every(graph, "PTDemoWorld", "which_model")[0]
    graph = measured(graph, world)
    loops = [content["inputs"].get("evaluation") for content in graph.values() if content["class_type"] == "PTLoopStart"]
    assert loops[-1] == ["measured", 0] and not any(loops[:-1])
    assert graph["exact"]["inputs"]["which_model"] == world


def clock(used: list[float], limit: float = 1e9) -> tuple[Clock, Course]:
    """used: seconds that the server says at the start and at each iteration."""
    times = iter(used)
    host = SimpleNamespace(status=SimpleNamespace(cpu_times=lambda: SimpleNamespace(user=next(times), system=0.0)))
    course = Course("nft", 0, "recipe")
    return Clock(host, course, limit), course


def iteration(**metrics) -> dict:
    return {"type": "posttrain.iteration", "data": {"metrics": {"rollout_evaluations": 8, "update_evaluations": 2} | metrics}}


def test_measuring_is_no_part_of_the_time_and_one_good_measurement_is_not_enough():
    run, course = clock([10, 15, 17, 30, 33, 50])  # 5 with loading, 2, one with a measurement, 3, one with a measurement
    assert not run(iteration()) and not run(iteration()) and not run(iteration(held_out_reward=0.91))
    assert course.points == [[9.0, 30, 0.91]] and course.reached() is None
    assert not run({"type": "posttrain.samples", "data": {}}) and not run(iteration())
    assert run(iteration(held_out_reward=0.9)) and course.reached() == [9.0, 30, 0.91]
    assert course.points[-1] == [14.5, 50, 0.9] and course.iterations == 5


def test_a_training_over_its_limit_ends():
    run, course = clock([0, 4, 9], limit=8)
    assert not run(iteration()) and run(iteration()) and course.reached() is None


def test_only_what_stands_between_the_marks_of_a_page_is_written(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before <a>old<b> after")
    put_between(page, "<a>", "<b>", "new")
    assert page.read_text() == "before <a>\nnew\n<b> after" and between(page, "<a>", "<b>") == "\nnew\n"
