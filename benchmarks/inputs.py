"""What a network of the host's takes beside latent and noise level, for holding the pack against it alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def inputs_of(module: Callable[[str], Any], model, prompts, shape: tuple[int, ...], device, index: tuple[int, ...]) -> dict:
    """For samples of these prompts. module: finds a module of the pack; model: ComfyUI's own; shape: of a latent; index: of each
    sample's prompt."""
    made = module("trainers.policy.conditioning").Conditionings(model, prompts, shape, device)
    ((_, conds),) = made.groups(index)
    return {name: value.cond for name, value in conds["positive"][0]["model_conds"].items()}
