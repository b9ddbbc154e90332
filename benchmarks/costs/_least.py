"""What an update or a rollout cannot do without: the evaluations of the host's bare network, its LoRA written in the plainest way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ._network import patcher
from ._world import bare_network

SIGMA = 5.0


def answer(network: Any, x: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Through PyTorch's attention, the quickest that there is here."""
    from comfy.ldm.modules.attention import attention_pytorch

    def quickest(_function: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        return attention_pytorch(*args, **kwargs)

    options = {"optimized_attention_override": quickest}
    return network.apply_model(x, torch.full((len(x),), SIGMA), c_crossattn=texts, transformer_options=options)


def least_of_dpo(policy: Any, pairs: torch.Tensor, texts: torch.Tensor) -> Callable[[], None]:
    """Forward and backward of pairs [2, N, C, H, W] with the LoRA, forward without it. texts: [N, T, D]."""
    trained, leaves = bare_network(patcher().model, policy)
    reference = patcher().model
    x, both = pairs.flatten(0, 1), texts.repeat(2, 1, 1)

    def run() -> None:
        with torch.no_grad():
            answer(reference, x, both)
        answer(trained, x, both).square().mean().backward()
        for leaf in leaves:
            leaf.grad = None

    return run


def least_of_rollout(
    policy: Any, vae: Any, steps: int, batches: int, x: torch.Tensor, texts: torch.Tensor
) -> Callable[[], None]:
    """Forward with the LoRA at so many steps of each batch x, and its decoding. texts: [N, T, D]."""
    drawing, _ = bare_network(patcher().model, policy)

    @torch.no_grad()
    def run() -> None:
        for _ in range(batches):
            for _ in range(steps):
                answer(drawing, x, texts)
            vae.decode(x)

    return run
