"""The two trainings differ in one thing alone, and what is written of them is theirs."""

from __future__ import annotations

import sys

from posttrain.tools.host import ROOT

sys.path.append(str(ROOT))  # last, so that ComfyUI's nodes.py is not hidden
from benchmarks.scale.behind import WHENS, graph, table


def test_the_two_workflows_differ_in_when_images_are_drawn():
    one, other = (graph(when, ["http://127.0.0.1:1"], 3) for when in WHENS)
    names = {"draw_images", "run_name", "file_name"}
    differing = {key for name in one for key in one[name]["inputs"] if one[name]["inputs"][key] != other[name]["inputs"][key]}
    assert differing == names and one.keys() == other.keys()
    assert {"PTRolloutOnComputers", "PTOtherComputers", "PTNFT"} <= {node["class_type"] for node in one.values()}
    links = [value[0] for node in one.values() for value in node["inputs"].values() if isinstance(value, list)]
    assert set(links) <= one.keys(), "nothing hangs on a node that was left out"


def test_the_table_has_means_of_a_few_iterations_and_skips_the_first_one_in_times():
    def points(more: float) -> list[dict]:
        return [{"reward_mean": i + more, "seconds": 10.0 * i, "seconds_sampling": 1.0 + more} for i in range(4)]

    one, other = points(0.0), points(0.5)
    one[3] |= {"held_out_reward": 0.25}
    other[3] |= {"held_out_reward": 0.5, "iterations_behind": 1.0}
    lines = table(dict(zip(WHENS, (one, other)))).splitlines()
    assert lines[2:] == [
        "| reward, iterations 1 to 3 | 1.000 | 1.500 |",
        "| reward, iterations 4 to 4 | 3.000 | 3.500 |",
        "| held-out prompts at the end | 0.250 | 0.500 |",
        "| iterations behind at the end | 0 | 1 |",
        "| seconds of an iteration | 20.0 | 20.0 |",
        "| of these waiting for images | 1.0 | 1.5 |",
    ]
