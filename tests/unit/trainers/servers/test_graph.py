"""The graph that another ComfyUI is asked to run."""

from __future__ import annotations

import comfy.sample
import torch
from posttrain.trainers.prompts import Texts
from posttrain.trainers.sampling.draws import SampleNoise
from posttrain.trainers.servers.graph import SAVED, Settings, Source, group_graph, noise_seed

SOURCE = Source(
    {"4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "mine.safetensors"}}}, ("4", 0), ("4", 1)
)
SETTINGS = Settings("euler", "simple", 8, 3.5, "empty.latent")


def of_kind(graph: dict, kind: str) -> list[dict]:
    return [node["inputs"] for node in graph.values() if node["class_type"] == kind]


def test_ksampler_draws_the_first_noise_of_our_samples():
    seeds = torch.tensor([0, 7, 2**62 - 1])
    ours = SampleNoise(seeds).start((4, 8, 8))
    theirs = [comfy.sample.prepare_noise(torch.zeros(1, 4, 8, 8), noise_seed(int(seed))) for seed in seeds]
    assert torch.equal(ours, torch.cat(theirs)) and all(0 <= noise_seed(int(seed)) < 2**63 for seed in seeds)


def test_each_image_has_a_sampler_with_its_own_seed_on_the_model_with_the_lora():
    graph = group_graph(SOURCE, "policy.safetensors", "a cat", Texts("ugly"), [1, 2, 3], SETTINGS, "here")
    samplers = of_kind(graph, "KSampler")
    assert [sampler["seed"] for sampler in samplers] == [noise_seed(seed) for seed in (1, 2, 3)]
    assert {(each["steps"], each["cfg"], each["scheduler"]) for each in samplers} == {(8, 3.5, "simple")}
    (lora,) = of_kind(graph, "LoraLoaderModelOnly")
    assert lora == {"model": ["4", 0], "lora_name": "policy.safetensors", "strength_model": 1.0}
    assert {tuple(each["model"]) for each in samplers} == {("posttrain lora", 0)}
    assert [graph[each["positive"][0]]["inputs"]["text"] for each in samplers] == ["a cat"] * 3
    assert graph[samplers[0]["negative"][0]]["inputs"] == {"clip": ["4", 1], "text": "ugly"}
    assert graph[SAVED]["inputs"]["samples"] == ["posttrain batch 2", 0] and graph["4"] == SOURCE.nodes["4"]
    assert not of_kind(graph, "FluxGuidance")


def test_guidance_built_into_a_model_is_put_on_both_texts():
    graph = group_graph(SOURCE, "a", "a cat", Texts("", 3.5), [1], SETTINGS, "here")
    assert [node["guidance"] for node in of_kind(graph, "FluxGuidance")] == [3.5, 3.5]
    (sampler,) = of_kind(graph, "KSampler")
    assert graph[sampler["positive"][0]]["class_type"] == "FluxGuidance" == graph[sampler["negative"][0]]["class_type"]
    assert graph[SAVED]["inputs"]["samples"] == ["posttrain image 0", 0]
