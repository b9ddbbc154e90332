"""Gradients that are added to what there is once their pass has ended, and never before."""

from __future__ import annotations

import torch


def gradients_of(loss: torch.Tensor, leaves: list[torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
    """Of each leaf, beside what it has collected so far: a pass that fails half-way has added nothing to it."""
    if leaves:
        return torch.autograd.grad(loss, leaves, allow_unused=True)
    loss.backward()
    return ()


def add(found: tuple[torch.Tensor | None, ...], leaves: list[torch.Tensor]) -> None:
    """To the leaves' ``.grad``, never in place: two gradients may be one tensor."""
    there = [(leaf, gradient.contiguous()) for leaf, gradient in zip(leaves, found) if gradient is not None]
    later = [(leaf, gradient) for leaf, gradient in there if leaf.grad is not None]
    sums = torch._foreach_add([leaf.grad for leaf, _ in later], [gradient for _, gradient in later]) if later else []
    for leaf, gradient in there:
        leaf.grad = gradient if leaf.grad is None else leaf.grad
    for (leaf, _), total in zip(later, sums):
        leaf.grad = total
