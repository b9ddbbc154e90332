"""Every shipped template that trains through a real server that has the simulated card, for two small iterations."""
from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest
from posttrain.tests.host.small_templates import small
from posttrain.tests.host.test_training_templates import TRAINING
from posttrain.tools.host import Host
from posttrain.tools.rater import Rater, brightest
from posttrain.tools.training import every, load_workflow, only, with_defaults
from simulated_card import dynamic
from small_checkpoint import write_checkpoint

SERVER = Path(__file__).with_name("server")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(SERVER), *([before] if before else [])])
    try:
        with Host(tmp_path_factory.mktemp("comfyui"), cpu=False) as running:
            yield running
    finally:
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


@pytest.mark.card("none")
@pytest.mark.parametrize("name", TRAINING)
def test_it_trains_on_the_card(server, name):
    described = server.get("/system_stats").json()["devices"][0]
    assert described["type"] == "cuda" and "Simulated" in described["name"]
    trains(server, with_defaults(small(name), server.object_info()))


def trains(server, graph: dict) -> None:
    """Two iterations, whole numbers in both, an update in one of them at least, and no way out that a full card needs."""
    with Rater(server, brightest):  # for the one that asks a person
        result = server.run(graph)
    assert result.event == "success", result.text
    for run_name in every(graph, "PTLoopStart", "run_name"):
        lines = (server.base / "output" / "posttrain" / run_name / "metrics.jsonl").read_text().splitlines()
        metrics = [json.loads(line) for line in lines]
        assert [one["iteration"] for one in metrics] == [1, 2] and sum(one["updates"] for one in metrics) > 0
        assert all(math.isfinite(value) for one in metrics for value in one.values() if isinstance(value, float))
    assert "Out of memory" not in server.log_text() and "retrying with tiled" not in server.log_text()


def with_a_checkpoint(graph: dict, file: str) -> dict:
    """The template with its MODEL and VAE from Load Checkpoint; the text encoder stays the demo world's."""
    demo = only(graph, "PTDemoWorld")
    graph["checkpoint"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": file}}
    graph["colours"] = {"class_type": "PTRewardColour", "inputs": {"statistic": "colourfulness", "aim": "more", "low": 0.0,
                                                                   "high": 1.0}}
    for content in graph.values():
        for key, value in content["inputs"].items():
            if value in ([demo, 0], [demo, 2]):
                content["inputs"][key] = ["checkpoint", value[1]]
            if value == [demo, 5]:
                content["inputs"][key] = ["colours", 0]
        if content["class_type"] == "EmptyLatentImage":
            content["class_type"] = "EmptySD3LatentImage"
    return load_workflow(graph, {"PTSampling.width": 64, "PTSampling.height": 64, "PTSampling.steps": 4, "KSampler.steps": 2,
                                 "EmptySD3LatentImage.width": 64, "EmptySD3LatentImage.height": 64})


@pytest.mark.card("none")
@pytest.mark.parametrize("name", ["learn_to_follow_prompts_flow_grpo", "follow_a_rewards_gradient_draft"])
def test_a_checkpoint_trains_on_the_card(server, name):
    """On hosts with dynamic VRAM it is streamed, and its file opened once."""
    file = server.base / "models" / "checkpoints" / "small_sd3.safetensors"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(file, text=64)
    trains(server, with_a_checkpoint(small(name), file.name))
    if dynamic.exists():
        assert "DynamicVRAM support detected and enabled" in server.log_text()
        assert server.log_text().count(f"simulated card: {file}") == 1
