"""Images of ComfyUI's own sampler train the policy: KSampler in the loop, Rollout from Latents, and any trainer that needs no steps."""
from __future__ import annotations

import json

import pytest
from posttrain.tests.host.lab_graph import node
from posttrain.tests.host.spine_graph import weights
from posttrain.tools.training import with_defaults

PROMPT = "three red balls"
FEEDBACK = {
    "PTNFT": node("PTAdvantages", scores=["8", 0]), "PTAWM": node("PTAdvantages", scores=["8", 0]),
    "PTDGPO": node("PTAdvantages", scores=["8", 0]), "PTRWR": node("PTAdvantages", scores=["8", 0]),
    "PTDiffusionDPO": node("PTPreferences", scores=["8", 0]), "PTMaPO": node("PTPreferences", scores=["8", 0]),
    "PTD3PO": node("PTPreferences", scores=["8", 0]), "PTKTO": node("PTLabels", scores=["8", 0])}


def graph(trainer: str) -> dict:
    """The policy as it is in each iteration draws as a MODEL, by KSampler, with another seed each time."""
    run = f"any sampler {trainer}"
    return {
        "1": node("PTDemoWorld", which_model="flow (tiny SD3)", score="dense (partial credit)"),
        "2": node("PTPromptList", text=PROMPT), "20": node("PTEncodePrompts", prompts=["2", 0], clip=["1", 1], negative=""),
        "3": node("PTCreatePolicy", model=["1", 0], rank=4, alpha=4.0, layers="attention", seed=0),
        "5": node(trainer, learning_rate=1e-3, updates_per_rollout=1),
        "6": node("PTLoopStart", policy=["3", 0], run_name=run, iterations=2, when_run_exists="start over", save_every=20),
        "21": node("PTApplyPolicy", policy=["6", 1], strength=1.0), "22": node("CLIPTextEncode", text=PROMPT, clip=["1", 1]),
        "23": node("EmptyLatentImage", width=192, height=192, batch_size=8),
        "24": node("KSampler", model=["21", 0], seed=["6", 2], steps=4, cfg=1.0, sampler_name="dpmpp_2m", scheduler="simple",
                   positive=["22", 0], negative=["22", 0], latent_image=["23", 0], denoise=1.0),
        "7": node("PTRolloutFromLatents", policy=["6", 1], latent=["24", 0], prompts=["20", 0], vae=["1", 2],
                  prompt_number=1, guidance=1.0),
        "30": node("PTRewardColour", statistic="brightness", aim="more", low=0.0, high=1.0),
        "8": node("PTScore", rollout=["7", 0], reward=["30", 0]), "9": FEEDBACK[trainer],
        "10": node("PTTrainStep", policy=["6", 1], rollout=["7", 0], feedback=["9", 0], trainer=["5", 0]),
        "11": node("PTLoopEnd", loop=["6", 0], policy=["10", 0], images=["7", 1], samples_every=1),
        "12": node("PTSaveLora", policy=["11", 0], file_name=f"tests/{run}")}


@pytest.mark.parametrize("trainer", FEEDBACK)
def test_it_learns_from_ksamplers_latents(host, trainer):
    result = host.run(with_defaults(graph(trainer), host.object_info()))
    assert result.event == "success", result.text
    path = host.base / "output" / "posttrain" / f"any sampler {trainer}" / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["updates"] for line in lines] == [1, 1]
    assert lines[0]["reward_mean"] != lines[1]["reward_mean"], "each iteration has pictures of its own"
    assert any(bool(v.any()) for k, v in weights(host, f"any sampler {trainer}").items() if "lora_B" in k)


@pytest.mark.parametrize("trainer", ["PTFlowGRPO", "PTDDPO", "PTDPOK"])
def test_a_trainer_of_the_steps_says_that_there_are_none(host, trainer):
    steps = graph("PTNFT") | {"5": node(trainer, learning_rate=1e-3, updates_per_rollout=1)}
    result = host.run(with_defaults(steps, host.object_info()))
    assert result.event == "error"
    for words in ("Train Step (node 10)", "no step was random", "Latents of another sampler", "DiffusionNFT"):
        assert words in result.text, result.text
