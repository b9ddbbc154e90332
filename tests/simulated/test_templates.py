"""Shipped templates through a real server that has the simulated card: one of each kind of trainer, for two small iterations."""
from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from posttrain.tools.host import Host
from posttrain.tools.training import every, load_workflow

SERVER = Path(__file__).with_name("server")
SMALL = {"PTLoopStart.iterations": 2, "PTLoopStart.when_run_exists": "start over", "PTSampling.prompts_per_iteration": 2,
         "PTSampling.images_per_prompt": 4, "PTSampling.batch_size": 8, "PTPairBatch.pairs_per_iteration": 8,
         "PTDemoPictures.count": 12, "EmptyLatentImage.batch_size": 1}
# a trajectory's, a forward process's, pairs', single pictures', steps', the reward's gradient's, a distillation's
KINDS = ("learn_to_follow_prompts_flow_grpo", "learn_to_follow_prompts_nft", "learn_from_pairs_diffusion_dpo",
         "learn_from_thumbs_kto", "step_by_step_preferences_spo", "follow_a_rewards_gradient_draft", "faster_after_dpo_lcm")

@pytest.fixture(scope="module")
def server(tmp_path_factory):
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SERVER), *([before] if before else [])])
    try:
        with Host(tmp_path_factory.mktemp("comfyui"), cpu=False) as running:
            yield running
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def small(name: str) -> dict:
    graph = load_workflow(name)
    kinds = {content["class_type"] for content in graph.values()}
    return load_workflow(graph, {place: value for place, value in SMALL.items() if place.split(".")[0] in kinds})


@pytest.mark.card("none")
@pytest.mark.parametrize("name", KINDS)
def test_it_trains_on_the_card(server, name):
    described = server.get("/system_stats").json()["devices"][0]
    assert described["type"] == "cuda" and "Simulated" in described["name"]
    graph = small(name)
    result = server.run(graph)
    assert result.event == "success", result.text
    for run_name in every(graph, "PTLoopStart", "run_name"):
        lines = (server.base / "output" / "posttrain" / run_name / "metrics.jsonl").read_text().splitlines()
        metrics = [json.loads(line) for line in lines]
        assert [one["iteration"] for one in metrics] == [1, 2] and sum(one["updates"] for one in metrics) > 0
        assert all(math.isfinite(value) for one in metrics for value in one.values() if isinstance(value, float))
    assert "Out of memory" not in server.log_text() and "retrying with tiled" not in server.log_text()
