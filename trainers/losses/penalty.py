"""A second term of a loss (a KL to the reference, a pretraining error) that may be switched off."""
from __future__ import annotations

from torch import Tensor


def add_penalty(loss: Tensor, name: str, term: Tensor | None, weight: float) -> tuple[Tensor, Tensor]:
    """(loss + weight * mean(term), mean(term) detached); loss scalar, term [B].

    With weight 0 nothing is added and term may be None (reported as 0), so that switching it off costs no evaluation.
    """
    if weight and term is None:
        raise ValueError(f"{name}: missing although its weight is {weight}; evaluate it or set the weight to 0")
    if term is None:
        return loss, loss.new_zeros(())
    return (loss + weight * term.mean() if weight else loss), term.detach().mean()
