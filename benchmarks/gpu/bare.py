"""The network as the host has it, without LoRA and trainer: what its evaluations cost, and where the time of an update goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType

from ..inputs import inputs_of
from .iteration import World
from .start import module

SIGMA, REPEATS = 0.6, 3
ROWS = 10  # of a profile


@dataclass(frozen=True)
class Bare:
    """Seconds of one evaluation, of one image: forward, and forward with its backward; images: at once."""

    forward: float
    both: float
    images: int


def bare(here: World, images: int) -> Bare:
    """With half of the images, and half of those, where they are too many for the card at once."""
    while True:
        try:
            return at_once(here, images)
        except torch.cuda.OutOfMemoryError:
            if images == 1:
                raise
            images //= 2


def at_once(here: World, images: int) -> Bare:
    """Each the quickest of a few turns, after one that warms up."""
    import comfy.model_management as management

    model, device = here.policy.model, here.policy.model.load_device
    management.unload_all_models()
    management.load_models_gpu([model])
    for weight in model.model.diffusion_model.parameters():
        weight.requires_grad_(False)
    shape = module("trainers.policy.latents").latent_shape(model, here.vae, here.size.pixels, here.size.pixels)
    x, sigma = torch.randn((images, *shape), device=device), torch.full((images,), SIGMA, device=device)
    given = arguments(here, x, images)

    @torch.no_grad()
    def forward() -> None:
        model.model.apply_model(x, sigma, **given)

    def both() -> None:
        leaf = x.clone().requires_grad_(True)
        model.model.apply_model(leaf, sigma, **given).square().mean().backward()

    return Bare(quickest(forward, device) / images, quickest(both, device) / images, images)


def arguments(here: World, x: torch.Tensor, images: int) -> dict[str, Any]:
    """What the network takes beside x and sigma, for images of all prompts in turn."""
    index = tuple(number % len(here.prompts) for number in range(images))
    return inputs_of(module, here.policy.model.model, here.prompts, tuple(x.shape[1:]), x.device, index)


def quickest(work: Callable[[], None], device: torch.device) -> float:
    seconds = []
    for _ in range(1 + REPEATS):
        torch.cuda.synchronize(device)
        begun = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def profile(work: Callable[[], object]) -> list[tuple[str, int, float, float]]:
    """(operator, calls, milliseconds of its own on the device, share of all), the longest first. Where the profiler
    does not see the device, the processor's."""
    activities = torch.profiler.supported_activities()
    with torch.profiler.profile(activities=activities) as seen:
        work()
    name = "self_device_time_total" if torch.profiler.ProfilerActivity.CUDA in activities else "self_cpu_time_total"
    # kernels are listed beside the operators that ask for them: each would count twice
    operators = [event for event in seen.key_averages() if event.device_type == DeviceType.CPU]
    events = sorted(operators, key=lambda event: getattr(event, name), reverse=True)
    total = sum(getattr(event, name) for event in events) or 1
    return [(event.key, event.count, getattr(event, name) / 1000, getattr(event, name) / total) for event in events[:ROWS]]
