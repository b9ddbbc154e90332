"""Held-out edits before and after training, in ComfyUI's own nodes.

The pictures go through the stock LoadImage, InstructPixToPixConditioning, KSampler and VAEDecode; of the pack only the demo's
model, Edits (each prompt from a file of its own) and Score Images take part.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from . import pack
from .evaluate import SCORES, SHOWN, SIZE, Evaluation, node, read, sampled
from .host import Host
from .training import finished

FOLDER = "held_out_edits"


def evaluate_edits(host: Host, lora: str, images: int, seed: int) -> Evaluation:
    """At least ``images`` results of the held-out edits without and with the LoRA, from the same noise."""
    prompts = pack.module("toy.edits").prompt_set(held_out=True).prompts
    write_prompts(prompts, host.base / "input" / FOLDER)
    result = finished(host, workflow(prompts, lora, math.ceil(images / len(prompts)), seed), "evaluation", timeout=1800)
    return Evaluation([read(result.outputs, number, prompt.text, host.base) for number, prompt in enumerate(prompts)])


def write_prompts(prompts, folder: Path) -> None:
    """Each prompt's picture, and a table of one row that names it."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number, prompt in enumerate(prompts):
        Image.fromarray((prompt.source.read().numpy() * 255).round().astype("uint8")).save(folder / f"{number}.png")
        row = {"source": f"{number}.png", "instruction": prompt.text, **prompt.spec}
        (folder / f"{number}.jsonl").write_text(json.dumps(row), encoding="utf-8")


def workflow(prompts, lora: str, each: int, seed: int) -> dict:
    """The evaluation as a workflow in API format."""
    graph = {
        "world": node("PTDemoEdits", score=SCORES["strict"]),
        "partial": node("PTDemoEdits", score=SCORES["dense"]),
        "lora": node("LoraLoaderModelOnly", model=["world", 0], lora_name=lora, strength_model=1.0),
        "nothing": node("CLIPTextEncode", clip=["world", 1], text=""),
        "latent": node("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=each),
    }
    for number, prompt in enumerate(prompts):
        graph[f"picture-{number}"] = node("LoadImage", image=f"{FOLDER}/{number}.png")
        graph[f"words-{number}"] = node("CLIPTextEncode", clip=["world", 1], text=prompt.text)
        graph[f"text-{number}"] = node(
            "InstructPixToPixConditioning", positive=[f"words-{number}", 0], negative=["nothing", 0], vae=["world", 2],
            pixels=[f"picture-{number}", 0])  # fmt: skip
        graph[f"prompt-{number}"] = node("PTEdits", folder_or_table=f"{FOLDER}/{number}.jsonl", limit=1)
        for when, model in (("before", "world"), ("after", "lora")):
            name = f"{when}-{number}"
            graph[f"sample-{name}"] = sampled(model, f"text-{number}", seed + number, negative=(f"text-{number}", 1))
            graph[f"image-{name}"] = node("VAEDecode", samples=[f"sample-{name}", 0], vae=["world", 2])
            graph[f"few-{name}"] = node("ImageFromBatch", image=[f"image-{name}", 0], batch_index=0, length=SHOWN)
            graph[f"show-{name}"] = node("PreviewImage", images=[f"few-{name}", 0])
            for score, world in (("strict", "world"), ("dense", "partial")):
                graph[f"{score}-{name}"] = node(
                    "PTScoreImages", images=[f"image-{name}", 0], reward=[world, 5], prompt=prompt.text,
                    prompt_mode="one prompt for all images", prompts=[f"prompt-{number}", 0])  # fmt: skip
    return graph
