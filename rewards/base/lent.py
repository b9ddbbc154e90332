"""Rewards that other processes hold, too: without gradients, those are asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .prompt import Prompt

Ask = Callable[[Tensor, Sequence[Prompt], Tensor], Any]  # images, prompts and groups -> Judgement
_lent: list[tuple[Any, Ask, Callable[[], dict[str, float]]]] = []


def lend(reward: Any, ask: Ask, counts: Callable[[], dict[str, float]]) -> None:
    """From here on ``ask`` answers for this reward, and ``counts`` says what was counted there. No reward is forgotten: a process
    that has judges runs one workflow."""
    _lent.append((reward, ask, counts))


def asked_instead(reward: Any, prompts: Sequence[Prompt]) -> Ask | None:
    """Who answers for this reward at this moment; None: itself. A picture that a prompt carries cannot be sent."""
    if torch.is_grad_enabled() or any(prompt.source is not None for prompt in prompts):
        return None
    return next((ask for known, ask, _ in _lent if known is reward), None)


def counts_elsewhere(reward: Any) -> dict[str, float]:
    return next((counts() for known, _, counts in _lent if known is reward), {})
