"""Gradients beside what was collected before: a pass that fails half-way has spoilt nothing, and nothing need be copied."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def gradients_of(loss: torch.Tensor, leaves: list[torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
    """Of each leaf, None where the loss does not depend on it; the leaves' ``.grad`` stays. Without leaves, a plain backward."""
    if not leaves:
        loss.backward()
        return ()
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    let_go(loss.device)
    return found


def let_go(device: torch.device) -> None:
    """Returns once autograd's own thread for a card has let go of the backward pass before; elsewhere there is none.

    That thread tells of the last gradient before it frees what led there, so that what comes next would meet memory still in
    use, or not, by chance. Its passes come one after the other: when a small one is done, so is the one before.
    """
    if device.type != "cpu":
        small = torch.zeros((), device=device, requires_grad=True)
        torch.autograd.grad(small * 1, small)


def collect(found: Sequence[torch.Tensor | None], leaves: list[torch.Tensor]) -> None:
    """Adds them to the leaves' ``.grad``, never in place: two gradients may be one tensor."""
    there = [(leaf, gradient.contiguous()) for leaf, gradient in zip(leaves, found) if gradient is not None]
    later = [(leaf, gradient) for leaf, gradient in there if leaf.grad is not None]
    before = [leaf.grad for leaf, _ in later if leaf.grad is not None]
    sums = list(torch._foreach_add(before, [gradient for _, gradient in later])) if later else []
    for leaf, gradient in there:
        leaf.grad = gradient if leaf.grad is None else leaf.grad
    for (leaf, _), total in zip(later, sums):
        leaf.grad = total
