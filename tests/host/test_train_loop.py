"""Train, the loop in one node, and the loop drawn by hand: on the real demo model they come to the same weights."""
from __future__ import annotations

import io
import json

import pytest
import torch
from PIL import Image
from posttrain.tests.host.lab_graph import node, summary
from posttrain.trainers.run.checkpoints import list_checkpoints, load_checkpoint

RULE = "per-prompt memory"  # the rule that also carries something from iteration to iteration


def setting() -> dict:
    """Model 1, prompts 2, policy 3, sampling 4, trainer 5."""
    return {
        "1": node("PTDemoWorld", which_model="flow (tiny SD3)", score="mixed (half strict, half partial credit)"),
        "2": node("PTEncodePrompts", prompts=["1", 3], clip=["1", 1], negative=""),
        "3": node("PTCreatePolicy", model=["1", 0], rank=4, alpha=4.0, layers="attention", seed=0),
        "4": node("PTSampling", width=24, height=24, steps=4, scheduler="simple", guidance=1.0, prompts_per_iteration=2,
                  images_per_prompt=4, batch_size=4, seed=1),
        "5": node("PTFlowGRPO", learning_rate=1e-3, updates_per_rollout=1, clip_range=1e-4, trust="clipped ratio",
                  beta=0.0, watch_kl=False)}


def wired(run: str, iterations: int) -> dict:
    return setting() | {
        "6": node("PTLoopStart", policy=["3", 0], run_name=run, iterations=iterations, when_run_exists="continue",
                  save_every=2),
        "7": node("PTRollout", policy=["6", 1], prompts=["2", 0], vae=["1", 2], sampling=["4", 0], iteration=["6", 2]),
        "8": node("PTScore", rollout=["7", 0], reward=["1", 5]),
        "9": node("PTAdvantages", scores=["8", 0], rule=RULE, clip=5.0, policy=["6", 1]),
        "10": node("PTTrainStep", policy=["6", 1], rollout=["7", 0], feedback=["9", 0], trainer=["5", 0]),
        "11": node("PTLoopEnd", loop=["6", 0], policy=["10", 0], images=["7", 1], samples_every=1)}


def in_one_node(run: str, iterations: int, **changed) -> dict:
    return setting() | {"6": node("PTTrain", **{
        "policy": ["3", 0], "prompts": ["2", 0], "vae": ["1", 2], "sampling": ["4", 0], "reward": ["1", 5],
        "trainer": ["5", 0], "advantage_rule": RULE, "run_name": run, "iterations": iterations,
        "when_run_exists": "continue", "save_every": 2, "samples_every": 1} | changed)}


def folder_of(host, run):
    return host.base / "output" / "posttrain" / run


def state(host, run):
    return load_checkpoint(list_checkpoints(folder_of(host, run) / "checkpoints")[-1][1])


def points(host, run):
    lines = map(json.loads, (folder_of(host, run) / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k != "time" and not k.startswith("seconds") and not k.endswith("_gb")} for line in lines]


def same(first, second) -> bool:
    return first[0] == second[0] and first[1].keys() == second[1].keys() and all(
        torch.equal(first[1][key], second[1][key]) for key in first[1])


@pytest.fixture(scope="module")
def drawn(host):
    """The wired loop after four iterations, the last two of them resumed."""
    for iterations in (2, 4):
        result = host.run(wired("drawn", iterations))
        assert result.event == "success", result.text
    return state(host, "drawn")


def test_train_and_the_wired_loop_come_to_equal_weights(host, drawn):
    result = host.run(in_one_node("one node", 4))
    assert result.event == "success", result.text
    alone = state(host, "one node")
    assert same(alone, drawn)
    assert alone[2] == drawn[2]  # metrics, step counts and the rule's memory, too
    assert points(host, "one node") == points(host, "drawn") and len(points(host, "drawn")) == 4
    assert any(key.endswith("lora_B") and value.abs().max() > 0 for key, value in alone[1].items())
    samples = [sorted(p.name for p in (folder_of(host, run) / "samples").iterdir()) for run in ("one node", "drawn")]
    assert samples[0] == samples[1] == [f"iteration_{i:06d}.webp" for i in (1, 2, 3, 4)]


def test_train_cancelled_and_resumed_comes_to_the_same(host, drawn):
    cancelled = host.run(in_one_node("halted", 4), cancel_when=lambda m: (
        m["type"] == "posttrain.iteration" and m["data"]["iteration"] == 1))
    assert cancelled.event == "interrupted"
    assert state(host, "halted")[0] < 4
    assert host.run(in_one_node("halted", 4)).event == "success"
    assert same(state(host, "halted"), drawn)


def test_train_answers_as_the_loop_does(host):
    host.run(in_one_node("answers", 1))
    again = host.run(in_one_node("answers", 1))
    assert "nothing to do" in summary(again) and "posttrain.iteration" not in again.counts
    asked = host.run(in_one_node("answers", 2, advantage_rule="batch"))
    assert "Train, advantage_rule: per-prompt memory -> batch" in asked.text
    assert host.run(in_one_node("a/b", 1)).event == "rejected"
    went_on = host.run(in_one_node("answers", 2, card="8 GB"), keep=True)
    told = [m["data"]["text"] for _, m in went_on.messages if m["type"] == "posttrain.message"]
    assert went_on.event == "success" and sum("network evaluations" in text for text in told) == 1


@pytest.mark.parametrize("graph", [wired, in_one_node])
def test_the_curve_is_a_picture_of_the_node(host, graph):
    """Once for the run, among its outputs; while it trains, as the node's preview."""
    result = host.run(graph(f"picture of {graph.__name__}", 3))
    (image,) = [image for shown in result.outputs.values() for image in shown.get("images", [])]
    assert image["filename"] == "curve_000003.png"
    with Image.open(io.BytesIO(host.get("/view", **image).content)) as picture:
        assert picture.format == "PNG" and picture.width == 1024
    assert result.counts["binary"] >= 1


@pytest.mark.parametrize("trainer, words", [
    (node("PTDiffusionDPO", learning_rate=1e-3, updates_per_rollout=1, beta=0.0, levels=1, safeguard=True, winner_keeps=0.9),
     ["DiffusionDPO learns from pairs of images", "Loop Start", "Preferences"]),
    (node("PTSPO", learning_rate=1e-3, updates_per_rollout=1, beta=10.0, clip_range=0.1, weighting="all steps alike"),
     ["SPO learns from pairs inside the denoising steps", "Loop Start", "Step Rollout"])])
def test_a_trainer_of_preferences_is_sent_to_the_wired_loop(host, trainer, words):
    result = host.run(in_one_node("preferences in one node", 1) | {"5": trainer})
    assert result.event == "error" and all(word in result.text for word in words), result.text


@pytest.mark.parametrize("graph", [wired, in_one_node])
def test_a_stop_rule_ends_either_and_may_change_without_a_question(host, graph):
    def stopped(images: float) -> dict:
        name = f"stopped {graph.__name__}"
        rules = {"20": node("PTStopWhen", when="minutes have passed", value=600.0, patience=1),
                 "21": node("PTStopWhen", when="images are made", value=images, patience=1, others=["20", 0])}
        drawing = graph(name, 9) | rules
        drawing["6"]["inputs"]["stop"] = ["21", 0]
        return drawing

    result = host.run(stopped(20.0))
    assert result.event == "success" and "after iteration 3 of 9: it has made 24 images" in summary(result), result.text
    kept = json.loads((folder_of(host, f"stopped {graph.__name__}") / "config.json").read_text())
    assert kept["stopped"] == "it has made 24 images"
    longer = host.run(stopped(40.0))
    assert longer.event == "success" and "after iteration 5 of 9: it has made 40 images" in summary(longer), longer.text


@pytest.mark.parametrize("graph", [wired, in_one_node])
def test_held_out_prompts_are_measured_and_change_nothing_that_is_trained(host, graph):
    def drawing(name: str, watched: bool) -> dict:
        made = graph(f"{name} {graph.__name__}", 3)
        if watched:
            held_out = {"20": node("PTEncodePrompts", prompts=["1", 4], clip=["1", 1], negative=""),
                        "21": node("PTEvaluateWhileTraining", prompts=["20", 0], vae=["1", 2], reward=["1", 5], sampling=["4", 0],
                                   every=2, hand_out="the best on held-out prompts"),
                        "22": node("PTStopWhen", when="held-out reward reaches", value=100.0, patience=1)}
            made |= held_out
            made["6"]["inputs"] |= {"stop": ["22", 0], "evaluation": ["21", 0]}
        return made

    watched, plain = host.run(drawing("watched", True)), host.run(drawing("plain", False))
    assert watched.event == plain.event == "success", watched.text
    run = f"watched {graph.__name__}"
    assert same(state(host, run), state(host, f"plain {graph.__name__}"))
    folder, lines = folder_of(host, run), points(host, run)
    assert [line["iteration"] for line in lines if "held_out_reward" in line] == [2, 3]
    assert len({line["held_out_base"] for line in lines[1:]}) == 1 and lines[1]["held_out_error"] > 0
    best = max(lines[1:], key=lambda line: line["held_out_reward"])
    assert f"Best on held-out prompts: {best['held_out_reward']:.4g}, in iteration {best['iteration']}" in summary(watched)
    assert (folder / "best" / f"state_{best['iteration']:06d}.safetensors").is_file()
    assert len(list((folder / "samples").glob("held_out_*"))) == 3
    answer = host.get(f"/posttrain/runs/{run.replace(' ', '%20')}").json()
    assert [sample["iteration"] for sample in answer["held_out"]] == [0, 2, 3]
    report = host.get(f"/posttrain/runs/{run.replace(' ', '%20')}/report").json()
    assert report["held_out"]["after"] == lines[2]["held_out_reward"] and report["held_out"]["iteration"] == 3 and run in report["others"]
    assert f"after iteration 3 {lines[2]['held_out_reward']:.4g}" in (folder / "report.md").read_text()
