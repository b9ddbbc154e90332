"""Every shipped template that trains, for two small iterations of each loop through the real server: it ends, learns, exports
and draws the picture that it should, on every host the same."""
from __future__ import annotations

import json
import math
from pathlib import Path

import numpy
import pytest
import safetensors.torch
from PIL import Image
from posttrain.tools.rater import Rater, brightest
from posttrain.tools.training import WORKFLOWS, every, load_workflow, the, with_defaults

SMALL = {"PTLoopStart.iterations": 2, "PTLoopStart.when_run_exists": "start over", "PTSampling.prompts_per_iteration": 2,
         "PTSampling.images_per_prompt": 4, "PTSampling.batch_size": 8, "PTPairBatch.pairs_per_iteration": 8,
         "PTDemoPictures.count": 12, "EmptyLatentImage.batch_size": 1}
PICTURES = Path(__file__).with_name("pictures")
TRAINING = sorted(path.stem for path in WORKFLOWS.glob("*.json") if "PTLoopStart" in path.read_text(encoding="utf-8"))


def small(name: str) -> dict:
    graph = load_workflow(name)
    kinds = {content["class_type"] for content in graph.values()}
    return load_workflow(graph, {place: value for place, value in SMALL.items() if place.split(".")[0] in kinds})


def pixels(file: Path) -> numpy.ndarray:
    return numpy.asarray(Image.open(file).convert("RGB"), dtype=float)


def look_right(host, graph: dict, result) -> None:
    """Before is what the untrained model draws from this noise on the pinned host; two small iterations change little of it.

    The templates show it four times enlarged. A host that rescales the empty latent draws plain grey.
    """
    kind = the(graph, "PTDemoWorld", "which_model").split()[0]
    expected = pixels(PICTURES / f"{kind}.png")
    untrained = graph["17"]["inputs"]["model"] == ["1", 0]
    for node, title in (("21", "Before training"), ("22", "After training")):
        assert graph[node]["_meta"]["title"] == title
        for image in result.outputs[node]["images"]:
            drawn = pixels(host.base / image["type"] / image["subfolder"] / image["filename"])
            assert drawn.shape == (96, 96, 3)
            alike = numpy.corrcoef(drawn[2::4, 2::4].ravel(), expected.ravel())[0, 1]
            assert alike > (0.999 if untrained and node == "21" else 0.95), f"{title} is another picture"


@pytest.mark.parametrize("name", TRAINING)
def test_it_trains_and_exports(host, name):
    graph = with_defaults(small(name), host.object_info())
    if name == "improve_a_lora" and host.get("/system_stats").json()["system"]["comfyui_version"] == "0.3.52":
        pytest.skip("Train LoRA of that ComfyUI takes one batch of pictures, and of later ones a list of them")
    with Rater(host, brightest):  # for the one that asks a person
        result = host.run(graph)
    assert result.event == "success", result.text
    for run_name in every(graph, "PTLoopStart", "run_name"):
        lines = (host.base / "output" / "posttrain" / run_name / "metrics.jsonl").read_text().splitlines()
        metrics = [json.loads(line) for line in lines]
        assert [one["iteration"] for one in metrics] == [1, 2]
        assert all(math.isfinite(value) for one in metrics for value in one.values() if isinstance(value, float))
        assert sum(one["updates"] for one in metrics) > 0
    saved = every(graph, "PTSaveLora", "file_name")
    assert len(saved) == len(every(graph, "PTLoopStart", "run_name"))
    for name in saved:
        lora = safetensors.torch.load_file(host.base / "models/loras" / f"{name}.safetensors")
        assert any(value.abs().max() > 0 for key, value in lora.items() if "lora_up" in key or "lora_B" in key)
    look_right(host, graph, result)
    before, after = ([image for node, content in graph.items() if content.get("_meta", {}).get("title") == title
                      for image in result.outputs[node]["images"]] for title in ("Before training", "After training"))
    assert before and len(before) == len(after)
