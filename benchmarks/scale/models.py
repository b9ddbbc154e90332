"""The jobs that are reckoned: sizes of the host's own networks, on the meta device, and the recommended numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tools import pack

from .arithmetic import Card, Job

PIXELS, SCALE = 1024, 8  # of a picture's side; pixels to a latent's number
REACHED = 0.4  # of a card's published speed: an assumption, nothing of this was measured on a card

H100 = Card("H100 SXM", REACHED * 989e12, 400e9 / 8, 2e12 / 8)
RTX4090 = Card("RTX 4090", REACHED * 165.2e12, 10e9 / 8, 128e9)


@dataclass(frozen=True)
class Model:
    """file: of tools/real_files.py; family, method: of the recommended numbers; inputs: shapes that the network takes beside
    latent and noise level, by name; frames: whether a latent has a place for them."""

    name: str
    file: str
    family: str
    method: str
    inputs: dict[str, tuple[int, ...]]
    frames: bool = False


MODELS = (
    Model("SDXL", "own_sdxl", "SDXL", "DDPO", {"context": (1, 77, 2048), "y": (1, 2816)}),
    Model("SD3.5 Medium", "own_sd35", "SD3.5", "FlowGRPO", {"context": (1, 154, 4096), "y": (1, 2048)}),
    Model("Flux.1 dev", "own_flux", "Flux", "FlowGRPO", {"context": (1, 256, 4096), "y": (1, 768), "guidance": (1,)}),
    Model("Qwen-Image", "own_qwen", "Qwen-Image", "FlowGRPO", {"context": (1, 128, 3584)}, frames=True),
)


def job_of(model: Model) -> Job:
    """A prompt's images on each card, as many as are recommended."""
    network, latent = network_of(model)
    row = pack.module("trainers.recipes.table").row(model.method, model.family)
    return job(model.name, network, latent, (PIXELS, PIXELS, 3), row, operations(model, network, latent), cost=model.method)


def network_of(model: Model) -> tuple[Any, tuple[int, ...]]:
    """The network without weights, and the shape of its latent."""
    import torch

    files = pack.module("tools.real_files", host=True)
    made = files.model_of(files.FAMILIES[model.file])
    side = PIXELS // SCALE
    channels = made.latent_format.latent_channels
    shape = (channels, 1, side, side) if model.frames else (channels, side, side)
    return made.diffusion_model.to(torch.bfloat16), shape


def job(name: str, network, latent: tuple[int, ...], picture: tuple[int, ...], row, operations: float, cost: str) -> Job:
    """cost: the method's class; row: its recommended numbers."""
    methods, bank = pack.module("trainers.methods"), pack.module("trainers.policy.bank")
    (kind,) = [each for each in methods.METHODS if each.__name__ == cost]
    settings = kind(**row.values("method"))
    sampling = pack.module("trainers.sampling.settings").Sampling(**row.values("sampling") | {"prompts_per_iteration": 1})
    updates = int(row.values("optimizer")["updates"])
    work = pack.module("trainers.engine.cost").work_of(sampling, 1, updates, own_images=False)
    gradient, further = methods.METHODS[kind].cost(settings, work)
    trainer = methods.Trainer(settings, pack.module("trainers.engine.update").Optimizer())
    recipe = bank.Recipe(**row.values("lora"))
    return Job(
        name,
        lora_numbers(network, recipe),
        math.prod(latent),
        math.prod(picture),
        work.random,
        methods.reads_means(trainer),
        work.sampling / work.images,
        gradient / work.images,
        further / work.images,
        operations,
        updates,
        work.images,
    )


def lora_numbers(network, recipe) -> int:
    bank, layers = pack.module("trainers.policy.bank"), pack.module("trainers.policy.layers")
    found = bank.trainable_layers(network, recipe).values()
    return sum(math.prod(shape) for layer in found for shape in layers.lora_shapes(layer, recipe.rank))


def operations(model: Model, network, latent: tuple[int, ...]) -> float:
    """Of an evaluation, counted by PyTorch: a multiplication and an addition are two."""
    import torch
    from comfy.ldm.modules.attention import attention_pytorch
    from torch.utils.flop_counter import FlopCounterMode

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, device="meta", dtype=torch.bfloat16)

    # the host's own choice asks a device for its free memory, which this one has not
    options = {"optimized_attention_override": lambda own, *values, **names: attention_pytorch(*values, **names)}
    inputs = {name: empty(*shape) for name, shape in model.inputs.items()}
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        network(empty(1, *latent), empty(1), **inputs, transformer_options=options)
    return counted.get_total_flops()
