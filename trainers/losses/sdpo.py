"""Diffusion-SDPO, arXiv 2511.03317: a safeguard for pair losses, the winner's error must not rise.

A pair loss lowers the winner's error and raises the loser's; where their gradients point the same way, raising the
one raises the other. With e_w, e_l = prediction - target of a pair, scale the loser's gradient by

    lambda = clip((1 - mu) |e_w|^2 / (e_w . e_l), 0, 1) if e_w . e_l > 0 else 1

which leaves a step that, in the space of predictions, lowers the winner's error by mu of its own pull or more. Values
are untouched. mu 0.9 (SD1.5), 0.6 (SDXL); mu 1 lets the loser not push at all where they agree.
The official code (AIDC-AI/Diffusion-SDPO) takes one lambda for the batch on a device, from the sums over its pairs;
we take each pair's own: the promise then holds for every pair, whatever weight the loss gives it, and a batch may be
cut anywhere.
"""
from __future__ import annotations

import torch
from torch import Tensor


def loser_scale(
    winner: Tensor, winner_target: Tensor, loser: Tensor, loser_target: Tensor, mu: float = 0.9
) -> Tensor:
    """Predictions and targets [N, ...] -> lambda [N] in [0, 1], detached."""
    if not 0 <= mu <= 1:
        raise ValueError(f"mu: {mu} is outside 0..1; 0.9 is usual")
    e_w, e_l = (winner - winner_target).detach().flatten(1), (loser - loser_target).detach().flatten(1)
    dot = (e_w * e_l).sum(1)
    cap = (1 - mu) * e_w.square().sum(1) / dot.where(dot > 0, 1.0)
    return torch.where(dot > 0, cap.clamp(0, 1), 1.0)


def scale_gradient(error: Tensor, scale: Tensor) -> Tensor:
    """error with its value kept and its gradient multiplied by scale; both [N]. Give it the loser's error."""
    # this form gives back every digit of error, which a beta of thousands would otherwise blow up
    return error.detach() + scale * (error - error.detach())
