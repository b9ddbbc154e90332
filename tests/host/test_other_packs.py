"""A pack of somebody else, installed beside this one: its reward scores and its trainer trains, in a real ComfyUI."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from posttrain.tests.host.lab_graph import node, summary
from posttrain.tests.host.spine_graph import spine, weights
from posttrain.tools.graphs import learn_through_reward, swap_reward, swap_trainer
from posttrain.tools.host import Host
from posttrain.tools.training import with_defaults

EXAMPLE = Path(__file__).with_name("example_pack")


@pytest.fixture(scope="module", params=["a pack", "zz pack"])
def host(request, tmp_path_factory):
    """Loaded before the other pack, or after it; under a folder name that nobody could know."""
    with Host(tmp_path_factory.mktemp("comfyui"), name=request.param, packs=[EXAMPLE]) as running:
        yield running


def run(host, graph: dict):
    return host.run(with_defaults(graph, host.object_info()))


def points(host, name: str) -> list[dict]:
    path = host.base / "output" / "posttrain" / f"spine {name}" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def learned(host, name: str) -> bool:
    return any(bool(value.any()) for key, value in weights(host, name).items() if "lora_B" in key)


def test_it_imports_nothing_of_this_pack_and_is_short():
    text = (EXAMPLE / "__init__.py").read_text(encoding="utf-8")
    found = [item for item in ast.walk(ast.parse(text)) if isinstance(item, (ast.Import, ast.ImportFrom))]
    assert [item.module for item in found] == ["dataclasses"] and len(text.splitlines()) < 80


def test_its_reward_and_its_trainer_train_in_the_loop(host):
    graph = spine("theirs", 2)
    swap_reward(graph, node("ExampleWarmth"))
    swap_trainer(graph, node("ExampleOwnBest", margin=0.0, learning_rate=1e-3))
    result = run(host, graph)
    assert result.event == "success", result.text
    lines = points(host, "theirs")
    assert [line["iteration"] for line in lines] == [1, 2] and all(line["updates"] == 1 for line in lines)
    assert all(line["denoising_error"] > 0 and -1 <= line["reward_mean"] <= 1 for line in lines) and learned(host, "theirs")


def test_its_words_reach_the_user(host):
    graph = spine("theirs too", 1)
    swap_reward(graph, node("ExampleWarmth"))
    swap_trainer(graph, node("ExampleOwnBest", margin=100.0, learning_rate=1e-3))
    result = run(host, graph)
    assert result.event == "error" and "choose a smaller margin" in result.text


def test_its_trainer_is_told_from_those_that_make_their_own_images(host):
    graph = spine("theirs through", 1)
    swap_trainer(graph, node("ExampleOwnBest", margin=0.0, learning_rate=1e-3))
    learn_through_reward(graph)
    swap_reward(graph, node("ExampleWarmth"))
    result = run(host, graph)
    assert result.event == "error" and "Own Best learns from a rollout" in result.text, result.text


def test_a_trainer_of_ours_follows_its_rewards_gradient(host):
    graph = spine("theirs followed", 1)
    swap_trainer(graph, node("PTDRaFT", learning_rate=1e-3))
    learn_through_reward(graph)
    swap_reward(graph, node("ExampleWarmth"))
    result = run(host, graph)
    assert result.event == "success", result.text
    assert points(host, "theirs followed")[0]["grad_norm"] > 0 and learned(host, "theirs followed")


def test_its_reward_scores_alone_and_among_others(host):
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 2, "color": 0xFF0000}},
        "2": node("ExampleWarmth"),
        "3": node("PTRewardColour", statistic="brightness", aim="more"),
        "4": node("PTRewardSum", reward_1=["2", 0], reward_2=["3", 0]),
        "5": node("PTScoreImages", images=["1", 0], reward=["2", 0]),
        "6": node("PTScoreImages", images=["1", 0], reward=["4", 0]),
    }
    result = run(host, graph)
    assert result.event == "success", result.text
    shown = summary(result)
    assert "warmth: range -1 .. 1" in shown and "sum (1 x warmth + 1 x brightness)" in shown and "has a gradient" in shown
