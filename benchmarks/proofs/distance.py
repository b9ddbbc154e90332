"""How far a training has led from the untrained model, for trainers that never look back at it themselves."""
from __future__ import annotations

from tools import pack
from tools.evaluate import SAMPLER, SCHEDULER, SCORES, SIZE, STEPS, node
from tools.host import Host, HostError
from tools.training import with_defaults


def distance(host: Host, loras: list[str], which_model: str, each: int = 8, seed: int = 20_000) -> float:
    """Mean squared difference of the two models' predictions, per latent element, on noised images that the trained model
    made of the held-out prompts; ``loras`` lie one over the other, ``each`` images a prompt."""
    prompts = [prompt.text for prompt in pack.module("toy.prompts").prompt_set(held_out=True).prompts]
    result = host.run(with_defaults(workflow(prompts, loras, which_model, each, seed), host.object_info()), timeout=1800)
    if result.event != "success":
        raise HostError(f"the distance ended with {result.event}: {result.text}\n{host.log_tail(15)}")
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
        graph[f"sample-{number}"] = node(
            "KSampler", model=[trained, 0], positive=[f"text-{number}", 0], negative=["empty", 0], latent_image=["latent", 0],
            denoise=1.0, seed=seed + number, cfg=1.0, steps=STEPS, sampler_name=SAMPLER, scheduler=SCHEDULER)
        graph[f"distance-{number}"] = node(
            "ControlPredictionDistance", before=["world", 0], after=[trained, 0], positive=[f"text-{number}", 0],
            latent=[f"sample-{number}", 0], seed=seed + number)
    return graph
