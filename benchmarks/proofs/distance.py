"""How far a training has led from the untrained model, for trainers that never look back at it themselves."""
from __future__ import annotations

from tools.evaluate import SCORES, SIZE, held_out_prompts, node, sampled
from tools.host import Host
from tools.training import finished


def distance(host: Host, loras: list[str], which_model: str, each: int = 8, seed: int = 20_000) -> float:
    """Mean squared difference of the two models' predictions, per latent element, on noised images that the trained model
    made of the held-out prompts; ``loras`` lie one over the other, ``each`` images a prompt."""
    prompts = held_out_prompts()
    result = finished(host, workflow(prompts, loras, which_model, each, seed), "distance", timeout=1800)
    found = [float(result.outputs[f"distance-{number}"]["text"][0]) for number in range(len(prompts))]
    return sum(found) / len(found)


def workflow(prompts: list[str], loras: list[str], which_model: str, each: int, seed: int) -> dict:
    """The measurement as a workflow in API format."""
    graph = {"world": node("PTDemoWorld", which_model=which_model, score=SCORES["strict"]),
             "empty": node("CLIPTextEncode", clip=["world", 1], text=""),
             "latent": node("EmptyLatentImage", width=SIZE, height=SIZE, batch_size=each)}
    trained = "world"
    for number, lora in enumerate(loras):
        graph[f"lora-{number}"] = node("LoraLoaderModelOnly", model=[trained, 0], lora_name=lora, strength_model=1.0)
        trained = f"lora-{number}"
    for number, prompt in enumerate(prompts):
        graph[f"text-{number}"] = node("CLIPTextEncode", clip=["world", 1], text=prompt)
        graph[f"sample-{number}"] = sampled(trained, f"text-{number}", seed + number)
        graph[f"distance-{number}"] = node(
            "ControlPredictionDistance", before=["world", 0], after=[trained, 0], positive=[f"text-{number}", 0],
            latent=[f"sample-{number}", 0], seed=seed + number)
    return graph
