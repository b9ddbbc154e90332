"""The numbers that a train step uses, and which of them are recommended ones: for the node, the run's folder and the LoRA."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any

from ..policy.recommended import family, recommended
from ..policy.value import Policy
from ..recipes.words import in_use
from ..sampling.settings import Sampling
from .other_packs import Foreign
from .update import Optimizer

SHOWN = {
    "lora": ("rank", "alpha", "start"),
    "optimizer": ("learning_rate", "updates", "max_grad_norm", "weight_decay", "average", "epsilon"),
    "sampling": (
        "steps",
        "guidance",
        "prompts_per_iteration",
        "images_per_prompt",
        "transition",
        "noise_level",
        "first_noisy_step",
        "noisy_steps",
        "window",
    ),
}


def numbers_in_use(
    policy: Policy, method: str, settings: Any, optimizer: Optimizer, sampling: Sampling | None, left_open: Iterable[str]
) -> dict:
    """{"method", "family", "numbers": {"part.name": value}, "recommended": names among them, "note", "words"}, JSON-serialisable.

    left_open: "part.name" of what was left to the recommendation; method: by the table's name; settings: the method's own.
    """
    values = {
        "lora": asdict(policy.recipe),
        "optimizer": asdict(optimizer),
        "sampling": {} if sampling is None else asdict(sampling),
    }
    numbers = {f"{part}.{name}": values[part][name] for part, names in SHOWN.items() for name in names if name in values[part]}
    # a trainer of another pack keeps its settings to itself
    named = () if isinstance(settings, Foreign) else fields(settings)
    own: dict[str, Any] = {each.name: getattr(settings, each.name) for each in named}
    own = {f"method.{name}": value for name, value in own.items() if isinstance(value, (int, float, str))}
    names = [*(f"lora.{name}" for name in policy.recipe.open), *left_open]
    used = {
        "method": method,
        "family": family(policy.model).name,
        "numbers": numbers | own,
        "recommended": sorted(name for name in names if name in numbers | own),
        "note": recommended(policy.model, method).why_not if names else "",
    }
    return used | {"words": in_use(used)}
