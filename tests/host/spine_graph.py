"""The shipped Flow-GRPO workflow, made small enough for a test, and pieces to hang on it."""
from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch

SHIPPED = Path(__file__).resolve().parents[2] / "workflows" / "api" / "learn_to_follow_prompts_flow_grpo.json"
TRAINED, MODEL, CLIP, VAE = ["11", 0], ["1", 0], ["1", 1], ["1", 2]


def spine(run: str, iterations: int = 2, **changes) -> dict:
    """The shipped graph without its pictures; changes: {"node.input": value}."""
    graph = json.loads(SHIPPED.read_text(encoding="utf-8"))
    graph = {key: node for key, node in graph.items() if int(key) <= 12}
    small = {"4.steps": 4, "4.prompts_per_iteration": 2, "4.images_per_prompt": 4, "4.batch_size": 8, "4.noisy_steps": 0,
             "5.decay_steps": 0, "6.run_name": f"spine {run}", "6.iterations": iterations, "11.samples_every": 1,
             "12.file_name": f"tests/{run}"}
    for key, value in (small | changes).items():
        node, name = key.split(".")
        graph[node]["inputs"][name] = value
    return graph


def sampled(graph: dict, model: list, name: str, at: int) -> dict:
    """Adds: a stock KSampler on ``model`` whose latents are saved as ``name``."""
    graph |= {
        str(at): {"class_type": "CLIPTextEncode", "inputs": {"text": "three red balls", "clip": CLIP}},
        str(at + 1): {"class_type": "EmptyLatentImage", "inputs": {"width": 192, "height": 192, "batch_size": 2}},
        str(at + 2): {"class_type": "KSampler", "inputs": {
            "model": model, "seed": 1, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple",
            "positive": [str(at), 0], "negative": [str(at), 0], "latent_image": [str(at + 1), 0], "denoise": 1.0}},
        str(at + 3): {"class_type": "SaveLatent", "inputs": {"samples": [str(at + 2), 0], "filename_prefix": name}}}
    return graph


def latents(host, name: str):
    """The latents saved under this name, the newest."""
    newest = sorted((host.base / "output").glob(f"{name}_*.latent"))[-1]
    return safetensors.torch.load_file(newest)["latent_tensor"]


def weights(host, run: str) -> dict:
    """The LoRA that the graph exported last: a name that is taken counts up from 2."""
    folder, number = host.base / "models" / "loras" / "tests", 1
    path = folder / f"{run}.safetensors"
    while (later := folder / f"{run}_{number + 1}.safetensors").is_file():
        path, number = later, number + 1
    return safetensors.torch.load_file(path)


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(bool((first[k] == second[k]).all()) for k in first)
