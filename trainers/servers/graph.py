"""What another ComfyUI is asked to run: the user's nodes up to the model, the policy's LoRA, and a KSampler for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...rewards.base.words import brief
from ..noise.streams import generator
from ..prompts import Texts

Graph = dict[str, dict[str, Any]]
OWN = "posttrain "  # our nodes' ids; the user's are numbers
SAVED = f"{OWN}saved"
MARK = "posttrain_latents"  # the folder in a server's output folder
STEPS_NODE = "PTDrawSteps"  # of this pack, for random steps
GUIDED = "FluxGuidance"  # for models with guidance built in


@dataclass(frozen=True)
class Source:
    """How a MODEL and a CLIP were made: nodes in API format, and the links to the two. files: model files that the nodes name,
    each with its bytes in each model folder in which it lies on this machine."""

    nodes: Graph
    model: tuple[str, int]
    clip: tuple[str, int]
    files: dict[str, dict[str, int]] = field(default_factory=dict)
    __repr__ = brief

    def kinds(self) -> set[str]:
        """The classes of its nodes."""
        return {node["class_type"] for node in self.nodes.values()}


@dataclass(frozen=True)
class Settings:
    """Of the KSampler. latent: name of the empty latent in the input folder."""

    sampler: str
    scheduler: str
    steps: int
    guidance: float
    latent: str


def group_graph(
    source: Source, lora: str, prompt: str, texts: Texts, seeds: Sequence[int], settings: Settings, prefix: str
) -> Graph:
    """The images of one prompt. seeds: of the samples' noise, as ``draws`` gives them: the first noise is then the same as that
    of a rollout on this machine. prefix: of the file that the latents are saved in; no other request may have used it."""
    nodes: Graph = {
        "lora": _node("LoraLoaderModelOnly", model=list(source.model), lora_name=lora, strength_model=1.0),
        "latent": _node("LoadLatent", latent=settings.latent),
    }
    positive = _encoded(nodes, source, "positive", prompt, texts.distilled_guidance)
    negative = _encoded(nodes, source, "negative", texts.negative, texts.distilled_guidance)
    images = []
    for place, seed in enumerate(seeds):
        nodes[f"image {place}"] = _node(
            "KSampler",
            model=_own("lora"),
            seed=noise_seed(seed),
            steps=settings.steps,
            cfg=settings.guidance,
            sampler_name=settings.sampler,
            scheduler=settings.scheduler,
            positive=positive,
            negative=negative,
            latent_image=_own("latent"),
            denoise=1.0,
        )
        images.append(_own(f"image {place}"))
    batch = images[0]
    for place, image in enumerate(images[1:], 1):
        nodes[f"batch {place}"] = _node("LatentBatch", samples1=batch, samples2=image)
        batch = _own(f"batch {place}")
    nodes["saved"] = _node("SaveLatent", samples=batch, filename_prefix=f"{MARK}/{prefix}")
    return source.nodes | {OWN + name: node for name, node in nodes.items()}


def noise_seed(seed: int) -> int:
    """The KSampler seed that draws the same first noise as a sample of this seed has."""
    return generator(int(seed)).initial_seed()


def _encoded(nodes: Graph, source: Source, name: str, text: str, guidance: float) -> list:
    nodes[name] = _node("CLIPTextEncode", clip=list(source.clip), text=text)
    if not guidance:
        return _own(name)
    nodes[f"{name} guidance"] = _node(GUIDED, conditioning=_own(name), guidance=guidance)
    return _own(f"{name} guidance")


def _node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def _own(name: str) -> list:
    return [OWN + name, 0]
