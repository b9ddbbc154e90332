"""Changing the algorithm is re-wiring one node: every trainer of the menu in the shipped Flow-GRPO workflow."""
from __future__ import annotations

import json

import pytest
from posttrain.nodes import NODE_CLASS_MAPPINGS
from posttrain.tests.host.lab_graph import node
from posttrain.tests.host.spine_graph import spine, weights
from posttrain.tools.graphs import compare_steps, learn_through_reward, swap_feedback, swap_reward, swap_trainer
from posttrain.tools.training import only, with_defaults

TRAINERS = {name for name, content in NODE_CLASS_MAPPINGS.items() if content.RETURN_TYPES == ("PT_TRAINER",)}
PAIRS, THUMBS = node("PTPreferences"), node("PTLabels")
# what hangs beside the trainer, where it is not Advantages
FEEDBACK = {"PTDiffusionDPO": PAIRS, "PTMaPO": PAIRS, "PTD3PO": PAIRS, "PTKTO": THUMBS}
THROUGH_REWARD = {"PTDRaFT", "PTAlignProp", "PTReFL", "PTDRTune", "PTSRPO"}
# settings without which a trainer would have nothing to do in so small a run
SETTINGS = {"PTSRPO": {"wanted": "bright", "unwanted": "dark"}, "PTReFL": {"margin": 100.0}, "PTLCM": {"teacher_steps": 8},
            "PTDPOK": {"value_steps": 5}}


def workflow(trainer: str) -> dict:
    """The shipped workflow with this trainer in the place of Flow-GRPO, and nothing else changed."""
    graph = spine(f"swap {trainer}", 2)
    settings = {"learning_rate": 1e-3, "updates_per_rollout": 1} | SETTINGS.get(trainer, {})
    if trainer == "PTDiffusionOPD":  # an untrained teacher, guided, has something to say, too
        graph["teacher"] = node("PTTeacher", lora="none", words="", guidance=3.0, policy=[only(graph, "PTCreatePolicy"), 0])
        settings["teacher"] = ["teacher", 0]
    swap_trainer(graph, node(trainer, **settings))
    return graph


def run(host, graph: dict):
    return host.run(with_defaults(graph, host.object_info()))


def check_it_learned(host, trainer: str, result) -> None:
    assert result.event == "success", result.text
    path = host.base / "output" / "posttrain" / f"spine swap {trainer}" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2]
    assert sum(line["updates"] for line in lines) > 0 and not sum(line["skipped_updates"] for line in lines)
    assert any(bool(v.any()) for k, v in weights(host, f"swap {trainer}").items() if "lora_B" in k), "the policy changed"


@pytest.mark.parametrize("trainer", sorted(TRAINERS - THROUGH_REWARD - {"PTSPO"}))
def test_it_takes_the_place_of_flow_grpo(host, trainer):
    graph = workflow(trainer)
    if trainer in FEEDBACK:
        result = run(host, graph)
        assert result.event == "error", f"{trainer} does not learn from advantages"
        assert ("Thumbs" if FEEDBACK[trainer] is THUMBS else "Preferences") in result.text, result.text
        swap_feedback(graph, FEEDBACK[trainer])
    check_it_learned(host, trainer, run(host, graph))


def test_spo_names_its_rollout_and_learns_with_it(host):
    graph = workflow("PTSPO")
    result = run(host, graph)
    assert result.event == "error" and "Step Rollout" in result.text, result.text
    compare_steps(graph, candidates=3, threshold=0.0, sharpness=5.0)
    check_it_learned(host, "PTSPO", run(host, graph))


@pytest.mark.parametrize("trainer", sorted(THROUGH_REWARD))
def test_through_the_reward_it_names_its_train_step_and_learns_with_it(host, trainer):
    graph = workflow(trainer)
    result = run(host, graph)
    assert result.event == "error" and "Train Step (through the reward)" in result.text, result.text
    learn_through_reward(graph)
    swap_reward(graph, node("PTDemoJudge"))
    check_it_learned(host, trainer, run(host, graph))
