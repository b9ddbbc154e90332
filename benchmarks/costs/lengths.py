"""An update of images whose texts have many lengths, each of which is a call of the network, against texts of one length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tools import pack

from . import Measure
from ._network import LATENT, policy, prompts, ratios
from ._regression import regression

PROMPTS, EACH, BATCH = 8, 4, 8
LENGTHS = tuple(range(49, 49 + 8 * PROMPTS, 8))  # 77 tokens in the mean


def measure() -> list[Measure]:
    made = policy()
    alike, mixed = prompts(PROMPTS), prompts(PROMPTS, LENGTHS)
    unordered = _Unordered(mixed.prompts, mixed.positive, mixed.negative)
    works = {"as they are dealt": update(made, unordered), "side by side": update(made, mixed)}
    found = ratios(update(made, alike), works, 5)
    what = f"an update of {PROMPTS * EACH} images, {BATCH} at once, whose texts have {PROMPTS} lengths, against one length"
    return [
        Measure(f"{what}: {name}", ratio, "x", 1.5 if name == "side by side" else None, f"{1000 * seconds:.0f} ms")
        for name, (ratio, seconds) in found.items()
        if name
    ]


class _Unordered(pack.module("trainers.prompts").PromptSet):  # type: ignore[misc]
    def side_by_side(self, index: Any) -> None:
        """As it was."""


def update(made: Any, texts: Any) -> Callable[[], None]:
    """Of reward-weighted regression."""
    index = torch.arange(PROMPTS).repeat_interleave(EACH)
    latents = torch.randn(len(index), 4, LATENT, LATENT, generator=torch.Generator().manual_seed(4))
    return regression(made, texts, latents, index, BATCH, 1)
