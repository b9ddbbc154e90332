"""The shipped flow model twice: as a policy, and bare, with the same LoRA written down in the plainest way."""
from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable

import torch

from tools import pack

from ..inputs import inputs_of


@dataclass(frozen=True)
class World:
    policy: Any  # of the pack, with random LoRA weights
    prompts: Any
    vae: Any
    sampling: Any
    bare: Any  # ComfyUI's own BaseModel, its linear layers wrapped
    leaves: list[torch.Tensor]  # the bare LoRA's weights

    def arguments(self, index: torch.Tensor) -> dict:
        """What the bare network takes beside x and sigma for samples of these prompts."""
        return inputs_of(pack.module, self.bare, self.prompts, (3, 24, 24), torch.device("cpu"), tuple(int(i) for i in index))


class BareLoRA(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module, down: torch.Tensor, up: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.layer, self.down, self.up, self.scale = layer, torch.nn.Parameter(down), torch.nn.Parameter(up), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + (x @ self.down.T @ self.up.T) * self.scale


def world(**sampling: Any) -> World:
    """The demo's settings, with what ``sampling`` changes."""
    torch.set_num_threads(1)
    models = pack.module("toy.models", host=True)
    policies, prompts = pack.module("trainers.policy"), pack.module("toy.prompts").prompt_set(held_out=False)
    encoded = pack.module("nodes.prompts").encode_prompts(prompts, models.load_clip(), "")
    made = policies.create_policy(models.load_model("flow"), policies.Recipe(rank=32, alpha=32.0))
    generator = torch.Generator().manual_seed(0)
    for name, weight in made.bank.items():
        if name.endswith("lora_B"):
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.02)
    settings = {"width": 24, "height": 24, "steps": 8, "guidance": 1.0, "prompts_per_iteration": 8,
                "images_per_prompt": 16, "batch_size": 64, "seed": 0, "noise_level": 0.7, "noisy_steps": 3} | sampling
    bare, leaves = bare_network(models.load_model("flow").model, made)
    return World(made, encoded, models.load_vae(), pack.module("trainers.sampling.settings").Sampling(**settings), bare, leaves)


def bare_network(model: Any, policy: Any) -> tuple[Any, list[torch.Tensor]]:
    leaves = []
    for name in [key.removesuffix(".lora_A") for key in policy.bank if key.endswith(".lora_A")]:
        parent = model.diffusion_model.get_submodule(name.rpartition(".")[0])
        wrapped = BareLoRA(model.diffusion_model.get_submodule(name), policy.bank[f"{name}.lora_A"].clone(),
                           policy.bank[f"{name}.lora_B"].clone(), policy.recipe.scale)
        setattr(parent, name.rpartition(".")[2], wrapped)
        leaves += [wrapped.down, wrapped.up]
    return model, leaves


def compare(ours: Callable[[], object], bare: Callable[[], object], repeats: int = 5) -> tuple[float, float, float]:
    """(ratio, seconds of ours, seconds of bare): processor time, of the quickest of ``repeats`` turns each.

    The two take turns, so that a busy machine slows both; processor time, since it does not count waiting.
    """
    times: dict[Callable, list[float]] = {ours: [], bare: []}
    ours(), bare()
    for _ in range(repeats):
        for work, taken in times.items():
            started = time.process_time()
            work()
            taken.append(time.process_time() - started)
    best, least = min(times[ours]), min(times[bare])
    return best / least, best, least
