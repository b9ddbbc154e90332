"""The shipped templates that train, made small enough for a test."""

from __future__ import annotations

from posttrain.tools.training import load_workflow

SMALL = {
    "PTLoopStart.iterations": 2,
    "PTLoopStart.when_run_exists": "start over",
    "PTSampling.prompts_per_iteration": 2,
    "PTSampling.images_per_prompt": 4,
    "PTSampling.batch_size": 8,
    "PTPairBatch.pairs_per_iteration": 8,
    "PTDemoPictures.count": 12,
    "EmptyLatentImage.batch_size": 1,
}


def small(name: str) -> dict:
    """A template for two small iterations of each of its loops."""
    graph = load_workflow(name)
    kinds = {content["class_type"] for content in graph.values()}
    graph = load_workflow(graph, {place: value for place, value in SMALL.items() if place.split(".")[0] in kinds})
    if name == "improve_a_lora":  # ComfyUI's Train LoRA takes no single picture
        graph["25"]["inputs"]["batch_size"] = 4
    if name == "edit_as_told_flow_grpo":  # of all held-out edits
        graph["40"]["inputs"]["images_per_prompt"] = 1
    return graph
