"""Trainers through the reward in a real ComfyUI: the wired loop, Train, wrong wires, and the policy as hooks."""
from __future__ import annotations

import json

import pytest
import torch
from posttrain.tests.host.lab_graph import node
from posttrain.tests.host.spine_graph import MODEL, TRAINED, latents, same, sampled, weights

OPTIMIZER = {"learning_rate": 1e-2, "updates_per_rollout": 1}
TRAINERS = {
    "PTDRaFT": {"backprop_steps": 1, "extra_noises": 0, "kl_weight": 0.0},
    "PTAlignProp": {"truncation": "uniform", "target": 0.0, "coefficient": 0.01, "stop_at": 0.0},
    "PTReFL": {"earliest": 0.75, "latest": 1.0, "margin": 2.0, "scale": 1e-3, "pretrain_weight": 0.0},
    "PTDRTune": {"trained_steps": 2, "early_stop": 1},
    "PTSRPO": {"wanted": "light", "unwanted": "dark", "earliest": 0.1, "latest": 0.5, "length": 0.1, "threshold": 0.7}}


def setting(trainer: str = "PTDRaFT", **changes) -> dict:
    """Model 1, prompts 2, policy 3, sampling 4, trainer 5, reward 13; changes: of the trainer's settings."""
    return {
        "1": node("PTDemoWorld", which_model="flow (tiny SD3)", score="mixed (half strict, half partial credit)"),
        "2": node("PTEncodePrompts", prompts=["1", 3], clip=["1", 1], negative=""),
        "3": node("PTCreatePolicy", model=["1", 0], rank=4, alpha=4.0, layers="attention and feed-forward", seed=0),
        "4": node("PTSampling", width=24, height=24, steps=4, scheduler="simple", guidance=1.0, prompts_per_iteration=4,
                  images_per_prompt=1, batch_size=2, seed=1),
        "5": node(trainer, **{**OPTIMIZER, **TRAINERS[trainer], **changes}),
        "13": node("PTRewardColour", statistic="brightness", aim="more", low=0.0, high=1.0)}


def wired(run: str, iterations: int, trainer: str = "PTDRaFT", **changes) -> dict:
    return setting(trainer, **changes) | {
        "6": node("PTLoopStart", policy=["3", 0], run_name=run, iterations=iterations, when_run_exists="continue",
                  save_every=20),
        "7": node("PTBackpropStep", policy=["6", 1], prompts=["2", 0], vae=["1", 2], reward=["13", 0], sampling=["4", 0],
                  trainer=["5", 0], iteration=["6", 2]),
        "11": node("PTLoopEnd", loop=["6", 0], policy=["7", 0], images=["7", 1], samples_every=1),
        "12": node("PTSaveLora", policy=["11", 0], file_name=f"tests/{run}")}


def in_one_node(run: str, iterations: int) -> dict:
    return setting() | {
        "11": node("PTTrain", policy=["3", 0], prompts=["2", 0], vae=["1", 2], sampling=["4", 0], reward=["13", 0],
                   trainer=["5", 0], advantage_rule="batch", run_name=run, iterations=iterations,
                   when_run_exists="continue", save_every=20, samples_every=1),
        "12": node("PTSaveLora", policy=["11", 0], file_name=f"tests/{run}")}


def done(result):
    assert result.event == "success", result.text
    return result


def test_the_wired_loop_and_train_come_to_the_same_weights(host):
    done(host.run(wired("draft", 2)))
    folder = host.base / "output" / "posttrain" / "draft"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2]
    for name in ("reward_mean", "reward_std", "grad_norm", "loss", "failed", "learning_rate", "update_evaluations"):
        assert name in lines[0], name
    assert list((folder / "samples").glob("*.webp")) and lines[0]["update_evaluations"] == 4 * 4
    assert any(bool(v.any()) for k, v in weights(host, "draft").items() if "lora_B" in k)
    done(host.run(in_one_node("draft in one node", 2)))
    assert same(weights(host, "draft"), weights(host, "draft in one node"))


def test_a_stopped_and_resumed_run_is_the_run_that_never_stopped(host):
    """AlignProp draws its truncation by the iteration, and its early stop is carried in the policy."""
    done(host.run(wired("align", 3, "PTAlignProp")))
    done(host.run(wired("align resumed", 1, "PTAlignProp")))
    done(host.run(wired("align resumed", 3, "PTAlignProp")))
    assert same(weights(host, "align"), weights(host, "align resumed"))


GRPO = node("PTFlowGRPO", **OPTIMIZER, clip_range=1e-4, trust="clipped ratio", beta=0.0, watch_kl=False)


@pytest.mark.parametrize("graph, words", [
    (wired("refused", 1) | {"5": GRPO}, ["FlowGRPO learns from a rollout", "Train Step"]),
    (wired("refused", 1, backprop_steps=9), ["9 is not possible with 4 sampling steps"]),
    (wired("refused", 1, backprop_steps=2, extra_noises=1), ["extra noises", "last step alone"]),
    (wired("refused", 1, "PTReFL", earliest=1.0, latest=0.5), ["earliest"]),
    (wired("refused", 1, "PTReFL", pretrain_weight=1.0), ["pretraining images", "Rollout from Latents"]),
    (wired("refused", 1, "PTSRPO"), ["looks at the image alone"]),
    (wired("refused", 1, "PTDRTune", trained_steps=9), ["trained steps", "4 sampling steps"])])
def test_wrong_wires_and_settings_are_refused_in_words(host, graph, words):
    result = host.run(graph)
    assert result.event == "error" and all(word in result.text for word in words), result.text


def test_a_reward_without_a_gradient_is_named(host):
    graph = wired("refused", 1)
    graph["7"]["inputs"]["reward"] = ["1", 5]
    result = host.run(graph)
    assert result.event == "error"
    assert all(word in result.text for word in ("has no gradient", "colour", "Flow-GRPO")), result.text


def test_draft_on_the_ordinary_train_step_is_refused_in_words(host):
    graph = setting() | {
        "7": node("PTRollout", policy=["3", 0], prompts=["2", 0], vae=["1", 2], sampling=["4", 0], iteration=0),
        "8": node("PTScore", rollout=["7", 0], reward=["13", 0]),
        "9": node("PTAdvantages", scores=["8", 0], rule="batch", clip=5.0),
        "10": node("PTTrainStep", policy=["3", 0], rollout=["7", 0], feedback=["9", 0], trainer=["5", 0]),
        "11": node("PTSaveLora", policy=["10", 0], file_name="tests/refused")}
    result = host.run(graph)
    assert result.event == "error" and "Train Step (through the reward)" in result.text, result.text


def hooked(graph: dict, name: str, at: int, start: float, end: float) -> None:
    """Adds a KSampler on the base model, with the policy as hooks on its conditioning."""
    sampled(graph, MODEL, name, at)
    graph[str(at + 4)] = node("PTPolicyHooks", policy=TRAINED, strength_at_start=start, strength_at_end=end)
    graph[str(at + 5)] = node("PairConditioningSetProperties", positive_NEW=[str(at), 0], negative_NEW=[str(at), 0],
                              strength=1.0, set_cond_area="default", hooks=[str(at + 4), 0])
    graph[str(at + 2)]["inputs"] |= {"positive": [str(at + 5), 0], "negative": [str(at + 5), 1]}


def test_hooks_fade_the_policy_along_the_steps(host):
    graph = wired("hooks", 2)
    graph["20"] = node("PTApplyPolicy", policy=TRAINED, strength=1.0)
    sampled(graph, ["20", 0], "hooks_full_model", 30)
    sampled(graph, MODEL, "hooks_base", 40)
    for at, (name, ends) in enumerate({"hooks_on": (1.0, 1.0), "hooks_off": (0.0, 0.0), "hooks_fade": (1.0, 0.0)}.items()):
        hooked(graph, name, 50 + 10 * at, *ends)
    done(host.run(graph))
    full, base, on, off, fade = (latents(host, f"hooks_{n}") for n in ("full_model", "base", "on", "off", "fade"))
    torch.testing.assert_close(on, full, rtol=0, atol=1e-4)
    torch.testing.assert_close(off, base, rtol=0, atol=1e-4)
    apart = (full - base).abs().max()
    assert apart > 1e-2 and (fade - full).abs().max() > 0.05 * apart and (fade - base).abs().max() > 0.05 * apart
