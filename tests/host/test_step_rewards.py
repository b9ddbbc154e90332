"""SPO, and judges of noisy latents trained in the graph, in a real ComfyUI."""
from __future__ import annotations

import json

import pytest
from posttrain.tests.host.spine_graph import VAE, spine, weights

SPO = {"class_type": "PTSPO", "inputs": {"learning_rate": 1e-3, "updates_per_rollout": 1, "beta": 10.0, "clip_range": 0.1,
                                         "weighting": "by noise"}}


def judged(run: str, judge: list, threshold: float = 0.0, iterations: int = 2) -> dict:
    """The shipped loop with Step Rollout in the place of Rollout, Score and Advantages."""
    graph = spine(run, iterations)
    graph["5"] = SPO
    graph["7"] = {"class_type": "PTStepRollout", "inputs": {
        "policy": ["6", 1], "prompts": ["2", 0], "vae": VAE, "sampling": ["4", 0], "judge": judge, "iteration": ["6", 2],
        "candidates": 3, "threshold": threshold, "sharpness": 1.0}}
    graph["10"]["inputs"] |= {"rollout": ["7", 0], "feedback": ["7", 1]}
    if "images" in graph["11"]["inputs"]:
        graph["11"]["inputs"]["images"] = ["7", 2]
    return {key: node for key, node in graph.items() if key not in ("8", "9")}


def with_judge(graph: dict, node: str) -> dict:
    """Adds: a rollout of the untrained policy, scored and paired outside of the loop, and a step reward trained on it."""
    sampling = {**spine("x")["4"]["inputs"], "prompts_per_iteration": 6, "steps": 4}
    graph |= {
        "50": {"class_type": "PTSampling", "inputs": sampling},
        "51": {"class_type": "PTRollout", "inputs": {"policy": ["3", 0], "prompts": ["2", 0], "vae": VAE, "sampling": ["50", 0],
                                                     "iteration": 7}},
        "52": {"class_type": "PTScore", "inputs": {"rollout": ["51", 0], "reward": ["1", 5]}},
        "53": {"class_type": "PTPreferences", "inputs": {"scores": ["52", 0], "pairs": "all pairs", "least_margin": 0.0,
                                                         "threshold": 0.5}}}
    common = {"policy": ["3", 0], "rollout": ["51", 0], "rounds": 2}
    graph["54"] = {"class_type": node, "inputs": {
        "PTStepReward": {**common, "preferences": ["53", 0], "levels": 2},
        "PTStepRewardByRollouts": {**common, "vae": VAE, "reward": ["1", 5], "completions": 1, "least_margin": 0.0}}[node]}
    return graph


def metrics(host, run: str) -> list[dict]:
    path = host.base / "output" / "posttrain" / f"spine {run}" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_any_reward_judges_candidates_by_their_estimates(host):
    result = host.run(judged("spo by reward", ["1", 5]))
    assert result.event == "success", result.text
    lines = metrics(host, "spo by reward")
    assert sum(line["pairs"] for line in lines) > 0 and lines[0]["reward_mean"] > 0
    assert any(bool(v.any()) for k, v in weights(host, "spo by reward").items() if "lora_B" in k)


@pytest.mark.parametrize("node", ["PTStepReward", "PTStepRewardByRollouts"])
def test_a_judge_trained_in_the_graph_serves_the_loop_and_shows_its_accuracy(host, node):
    run = f"spo by {node}"
    result = host.run(with_judge(judged(run, ["54", 0]), node))
    assert result.event == "success", result.text
    assert "right on prompts that it was not trained on" in result.outputs["54"]["text"][0]
    assert all(line["pairs"] > 0 for line in metrics(host, run))
    assert any(bool(v.any()) for k, v in weights(host, run).items() if "lora_B" in k)


def test_a_step_reward_scores_rollouts_without_decoding(host):
    graph = with_judge(spine("latent scores", 2), "PTStepReward")
    graph["8"] = {"class_type": "PTScoreLatents", "inputs": {"rollout": ["7", 0], "step_reward": ["54", 0], "policy": ["6", 1],
                                                             "levels": 2}}
    result = host.run(graph)
    assert result.event == "success", result.text
    assert metrics(host, "latent scores")[1]["zero_spread_groups"] == 0


@pytest.mark.parametrize("changes, words", [
    ({"4.transition": "deterministic"}, ["no step is random", "noise level"]),
    ({"7.candidates": 1}, ["candidates"]), ({"7.threshold": 1.5}, ["threshold"])])
def test_settings_that_cannot_be_are_refused_in_words(host, changes, words):
    graph = judged("bad steps", ["1", 5])
    graph["6"]["inputs"]["when_run_exists"] = "start over"
    for key, value in changes.items():
        node, name = key.split(".")
        graph[node]["inputs"][name] = value
    result = host.run(graph)
    assert result.event in ("error", "rejected") and all(word in result.text for word in words), result.text


def test_spo_on_an_ordinary_rollout_names_step_rollout(host):
    graph = spine("spo without steps", 1)
    graph["5"] = SPO
    result = host.run(graph)
    assert result.event == "error" and "Step Rollout" in result.text
